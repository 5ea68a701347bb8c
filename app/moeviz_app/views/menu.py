"""The app's menu: eight places, each with one question, and the tabs of the place that is open.

A tab is a page with an address of its own. Each topic of moeviz.charts is on one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import streamlit as st

from moeviz.charts import TOPICS
from moeviz.embedded import EMBEDDED
from moeviz.history.systems import EXHIBITS
from moeviz.published import MODELS
from moeviz_app.session.subject import (
    COUNTED,
    KINDS,
    MIXED,
    ORDER,
    PROMPT,
    RUNS,
    SCORES,
    SERVED,
    SEVERAL,
    SIZE,
    TRAINING,
    WEIGHTS,
)
from moeviz_app.session.visit import Takes, visit
from moeviz_app.url import serve_address
from moeviz_app.url.fields import PageAddress, choice, page_address
from moeviz_app.views import (
    balance,
    compare,
    contrast,
    corpus,
    engine_difference,
    expert,
    expert_table,
    experts,
    explore,
    lineage,
    models,
    one_word,
    prune,
    routes,
    serve,
    timeline,
    topic,
    traces,
    training,
    what_if,
)
from moeviz_app.views.history import gallery, mixtral, story
from moeviz_app.widgets.components import component
from moeviz_app.widgets.pickers import COMPARED

FIRST = "Explore"
STORY = "From 1991 to Mixtral"
EXPERT = "expert"  # address of the page of one expert, which has no tab: every expert's id leads there
MORE, EXHIBIT = "More", "Exhibits"
# The pages of the history gallery: folders of moeviz.history by title. They train with torch and scikit-learn, so each
# is loaded when somebody opens it.
GALLERY = {row.title: folder for folder, row in EXHIBITS.items()}


@dataclass(frozen=True, slots=True)
class PageRow:
    """A page of the app. All that other parts of the app know of it is in this row."""

    name: str
    draw: Callable[[], None]
    takes: Takes | None = None  # the subject that it is about; None: of none, and it has no subject bar
    address: PageAddress | None = None  # what its address says in addition to the subject


def _topic(name: str, takes: Takes, *topics: str) -> PageRow:
    pictures = {chart.key: chart.key for of in topics or (name,) for chart in TOPICS[of]}
    address = page_address(choice("picture", topic.picture_key(name), pictures))
    return PageRow(name, partial(topic.topic_page, name, *topics), takes, address)


def _takes(example: str, *needs: str, prefers: tuple[str, ...] = (), **more: bool) -> Takes:
    return Takes(frozenset(needs), frozenset(prefers), example, **more)


MIXTRAL = MODELS[0].lower()
A_TEXT = _takes(MIXED, ORDER, one_text=True)
OF_EXPERTS = _takes(EMBEDDED, ORDER, prefers=(SEVERAL,))
AN_EXPERT = _takes(EMBEDDED, ORDER, prefers=(SEVERAL,), same_model=True)
OF_MODEL = _takes(EMBEDDED, WEIGHTS)
TO_RUN = _takes(MIXED, ORDER, WEIGHTS, PROMPT)
TOKENS = _takes(EMBEDDED, ORDER)

PLACES: dict[str, tuple[PageRow, ...]] = {  # a place, and its tabs; it opens at the first
    "Explore": (PageRow(FIRST, explore.explore_page, A_TEXT), _topic("Tokens", A_TEXT)),
    "Experts": (
        PageRow("Experts", experts.experts_page, OF_EXPERTS, experts.ADDRESS),
        PageRow(expert_table.PAGE, expert_table.expert_table_page, OF_EXPERTS),
        PageRow(routes.PAGE, routes.routes_page, OF_EXPERTS, routes.ADDRESS),
        _topic("Specialization", _takes(EMBEDDED, ORDER, prefers=(KINDS,))),
        _topic("Locality", TOKENS),
        _topic("Co-activation", TOKENS),
        _topic("Confidence", _takes(MIXED, ORDER, SCORES)),
        _topic("Layers", TOKENS, "Flow", "Layers"),
        PageRow("Prune", prune.prune_page, OF_MODEL),
        PageRow("Lineage", lineage.lineage_page, OF_MODEL),
    ),
    "Compare": (
        PageRow("Compare", compare.compare_page, TOKENS, COMPARED),
        PageRow("One word", one_word.one_word_page, TO_RUN, one_word.ADDRESS),
        PageRow("Contrast", contrast.contrast_page, _takes(EMBEDDED, ORDER, KINDS), contrast.ADDRESS),
        PageRow("Engine difference", engine_difference.engine_difference_page, None, engine_difference.ADDRESS),
        PageRow("What if", what_if.what_if_page, TO_RUN, what_if.ADDRESS),
    ),
    "Balance": (
        PageRow("Balance", balance.balance_page, _takes(MIXTRAL, COUNTED), balance.ADDRESS),
        _topic("Load", _takes(MIXTRAL, COUNTED), "Load", "Coverage"),
        _topic("Losses", _takes(MIXED, ORDER, SCORES)),
    ),
    "Serve": (
        PageRow("Serve", serve.serve_page, _takes(MIXTRAL, SERVED), serve_address.ADDRESS),
        _topic("Parameters", _takes(MIXTRAL, SIZE)),
        _topic("Placement", _takes(MIXTRAL, COUNTED)),
    ),
    "Train": (PageRow("Train", training.training_page, _takes(RUNS, TRAINING), training.ADDRESS),),
    "Story": (
        PageRow(STORY, lambda: story.story_page(_page)),
        PageRow("Timeline", timeline.timeline_page),
        PageRow("Article", lambda: story.article_page(_page)),
        *(PageRow(title, partial(gallery.exhibit_page, folder)) for title, folder in GALLERY.items()),
        PageRow("Mixtral", mixtral.mixtral_page),
    ),
    "Open": (
        PageRow("Files", traces.traces_page),
        PageRow("Models", models.models_page),
        PageRow("Many texts", corpus.corpus_page, _takes(EMBEDDED, ORDER)),
    ),
}
MENU = {place: tuple(page.name for page in pages) for place, pages in PLACES.items()}
ROWS = {page.name: page for pages in PLACES.values() for page in pages} | {
    "Expert": PageRow("Expert", expert.expert_page, AN_EXPERT),
    MORE: PageRow(MORE, lambda: _more_page()),
}
QUESTIONS = {
    "Explore": "Where does each token go?",
    "Experts": "What does each expert do?",
    "Compare": "What changes with another model, word, engine or precision?",
    "Balance": "Who has too much to do, and who nothing?",
    "Serve": "What will it cost to run?",
    "Train": "Are my routers collapsing?",
    "Story": "Where do these models come from?",
    "Open": "Bring a file, a model, a server or a corpus; take results away",
}
ICONS = {  # on a phone, at the bottom, next to More
    "Explore": ":material/notes:",
    "Experts": ":material/grid_view:",
    "Compare": ":material/compare:",
    "Story": ":material/menu_book:",
}

# The names of places whose first page has another address: whoever types one finds it.
PLACE_ADDRESSES = {"explore": FIRST, "story": STORY, "open": "Files"}

NAME = '<a class="moeviz-name" href="./" target="_self" aria-label="moeviz: first page">moeviz</a>'
LOGO = (  # a router that sends a token to two of four experts; st.html takes no <svg>, a style sheet does
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 36 28'><path fill='none' stroke='#817ad6' "
    "stroke-width='2.2' d='M7 14C18 14 15 3 26 3M7 14C18 14 15 18 26 18'/><circle cx='6' cy='14' r='5' "
    "fill='#817ad6'/><path fill='#9998' d='M25 7h10v6H25zM25 22h10v6H25z'/><path fill='#4A9' d='M25 0h10v6H25z'/>"
    "<path fill='#C67' d='M25 15h10v6H25z'/></svg>"
)
ELSEWHERE = ", ".join(f".st-key-menu > :nth-child({at})" for at, place in enumerate(MENU, 1) if place not in ICONS)
_CSS = Path(__file__).with_name("menu.css").read_text("utf-8").replace("LOGO", quote(LOGO))
STYLE = f"<style>\n{_CSS.replace('ELSEWHERE', ELSEWHERE).replace('MORE', str(len(MENU) + 1))}</style>"
_mark = component("menu", "<span hidden></span>", scripts="menu")


def menu() -> list[st.Page]:
    """List the pages for st.navigation, which draws nothing: `draw_menu` does."""
    pages = visit().pages = {name: _page(name) for name in ROWS}
    places = [st.Page(partial(_lead_on, name), title=name, url_path=path) for path, name in PLACE_ADDRESSES.items()]
    return [*pages.values(), *places]


def place_of(page: str) -> str:
    """Return the place that a page is in; an expert's is Experts, whose ids lead there."""
    return next((place for place, pages in MENU.items() if page in pages), "Experts" if page == "Expert" else page)


def draw_menu(open_page: str) -> None:
    """Draw the mark and eight places as links, four of them at the bottom of a phone; then the tabs of the open one.

    The first page has its tabs at its end (`draw_tabs`): its answer must be on the first screen.
    """
    st.html(STYLE)
    place = place_of(open_page)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="head"):
        st.html(NAME, width="content")
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key="menu"):
            for name, pages in MENU.items():
                st.page_link(_page(pages[0]), label=name, icon=ICONS.get(name), width="content")
            st.page_link(_page(MORE), label=MORE, icon=":material/menu:", width="content")
            places = [_path(MENU[place][0])] if place in MENU else []
            places += [] if place in ICONS else [_path(MORE)]
            tab = next(iter(GALLERY)) if open_page in GALLERY else open_page
            _mark(key="mark", data={"places": places, "tabs": [_path(tab)]}, height=1)
    if open_page != FIRST:
        draw_tabs(open_page)


def draw_tabs(open_page: str) -> None:
    """Draw links to the tabs of a page's place, if it has several; of the exhibits, a choice of one."""
    tabs = MENU.get(place_of(open_page), ())
    if len(tabs) > 1:
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key="submenu"):
            for name in tabs:
                if name not in GALLERY:
                    st.page_link(_page(name), label=name, width="content")
            if set(GALLERY) <= set(tabs):
                st.page_link(_page(next(iter(GALLERY))), label=EXHIBIT, width="content")
    if open_page in GALLERY:
        _choose_exhibit(open_page)


def _choose_exhibit(shown: str) -> None:
    titles = list(GALLERY)
    chosen = st.selectbox(
        "Exhibit",
        titles,
        titles.index(shown),
        format_func=lambda title: f"{EXHIBITS[GALLERY[title]].year} · {title}",
        label_visibility="collapsed",
        key=f"exhibit {shown}",
        width=320,
    )
    if chosen != shown:
        st.switch_page(_page(chosen))


def _more_page() -> None:
    """Draw the places that are not at the bottom of a phone, each with its question."""
    st.title(MORE, anchor=False)
    for place, tabs in MENU.items():
        if place not in ICONS:
            st.page_link(_page(tabs[0]), label=f"**{place}**", icon=":material/arrow_forward:")
            st.text(QUESTIONS[place])


def _lead_on(name: str) -> None:
    st.switch_page(_page(name), query_params=st.query_params.to_dict())


def _path(name: str) -> str:
    return "" if name == FIRST else name.lower().replace(" ", "-")


def _page(name: str) -> st.Page:
    return st.Page(ROWS[name].draw, title=name, url_path=_path(name) or None, default=name == FIRST)
