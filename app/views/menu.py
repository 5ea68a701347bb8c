"""The app's menu: a row of links, grouped by what one asks about. Each topic of moeviz.charts is a page."""

from functools import partial
from urllib.parse import quote

import streamlit as st
from moeviz_app.session import session
from moeviz_app.views.balance import balance_page
from moeviz_app.views.compare import compare_page
from moeviz_app.views.corpus import corpus_page
from moeviz_app.views.engine_difference import engine_difference_page
from moeviz_app.views.expert import expert_page
from moeviz_app.views.explore import explore_page
from moeviz_app.views.history.article import article_page
from moeviz_app.views.history.gallery import exhibit_page
from moeviz_app.views.history.mixtral import mixtral_page
from moeviz_app.views.history.story import story_page
from moeviz_app.views.serve import serve_page
from moeviz_app.views.timeline import timeline_page
from moeviz_app.views.topic import topic_page
from moeviz_app.views.traces import traces_page
from moeviz_app.views.training import training_page
from moeviz_app.views.what_if import what_if_page

from moeviz.charts import TOPICS
from moeviz.history.systems import EXHIBITS

FIRST = "Explore"
STORY = "From 1991 to Mixtral"
EXPERT = "expert"  # address of the page of one expert, which has no entry: every expert's id leads there
# The pages of the history gallery: folders of moeviz.history by title. They train with torch and scikit-learn, so each
# is loaded when somebody opens it.
GALLERY = {row.title: folder for folder, row in EXHIBITS.items()}
MENU = {
    "Explore": (FIRST, "Tokens"),
    "Balance": (
        "Balance",
        "Load",
        "Specialization",
        "Locality",
        "Co-activation",
        "Confidence",
        "Losses",
        "Layers",
        "Flow",
        "Coverage",
    ),
    "Serve": ("Serve", "Parameters", "Placement"),
    "Experiment": ("Compare", "Engine difference", "What if"),
    "Training": ("Training",),
    "History": (STORY, "Timeline", "Article", *GALLERY),
    "Open / save": ("Traces", "Corpus"),
}


# Addresses of pages as they were once called: bookmarks and links in messages still open the page.
OLD_ADDRESSES = {
    "capture": FIRST,
    "gallery": STORY,
    "run": FIRST,
    "cooperation": "Co-activation",
    "repetition": "Locality",
    "counts": "Balance",
    "formation": "Training",
    "routing-over-training": "Training",
}

NAME = '<a class="moeviz-name" href="./" target="_self" aria-label="moeviz: first page">moeviz</a>'
LOGO = (  # a router that sends a token to two of four experts; st.html takes no <svg>, a style sheet does
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 36 28'><path fill='none' stroke='#817ad6' "
    "stroke-width='2.2' d='M7 14C18 14 15 3 26 3M7 14C18 14 15 18 26 18'/><circle cx='6' cy='14' r='5' "
    "fill='#817ad6'/><path fill='#9998' d='M25 7h10v6H25zM25 22h10v6H25z'/><path fill='#4A9' d='M25 0h10v6H25z'/>"
    "<path fill='#C67' d='M25 15h10v6H25z'/></svg>"
)
STYLE = f"""<style>
.moeviz-name::before {{content: ''; width: 36px; height: 28px;
  background: url("data:image/svg+xml,{quote(LOGO)}") center / contain no-repeat}}
.moeviz-name {{display: inline-flex; align-items: center; gap: .5rem; font: 700 1.25rem var(--st-font, inherit);
  color: inherit !important; text-decoration: none !important}}
.st-key-menu, .st-key-submenu {{flex-wrap: nowrap !important; overflow-x: auto; scrollbar-width: thin}}
.st-key-menu > div, .st-key-submenu > div {{flex-shrink: 0}}
.st-key-menu {{padding-right: 3.5rem}} /* Streamlit's own button is at the end */
.st-key-menu a, .st-key-submenu a {{padding-block: .1rem}}
.st-key-submenu {{border-top: 1px solid color-mix(in srgb, currentColor 15%, transparent); padding-top: .2rem}}
</style>"""


PAGES = {
    FIRST: explore_page,
    **{topic: partial(topic_page, topic) for topic in TOPICS},
    "Serve": serve_page,
    "Balance": balance_page,
    "Compare": compare_page,
    "Engine difference": engine_difference_page,
    "What if": what_if_page,
    "Corpus": corpus_page,
    "Training": training_page,
    "Timeline": timeline_page,
    "Article": lambda: article_page(_page),
    STORY: lambda: story_page(_page),
    **{title: partial(exhibit_page, folder) for title, folder in GALLERY.items()},
    "Mixtral": mixtral_page,
    "Traces": traces_page,
}


def menu() -> list[st.Page]:
    """For st.navigation, which draws nothing: `draw_menu` does."""
    pages = {name: _page(name) for name in PAGES}
    pages["Expert"] = st.Page(expert_page, title="Expert", url_path=EXPERT)
    session.set_pages(pages)
    moved = [st.Page(partial(_lead_on, name), title=name, url_path=old) for old, name in OLD_ADDRESSES.items()]
    return [*pages.values(), *moved]


def draw_menu(open_page: str) -> None:
    """The mark and the parts of the app in a row of links; under it, the pages of the part that is open.

    The first page has those at its end (`draw_further`): its answer is to be on the first screen.
    """
    st.html(STYLE)
    part = next((part for part, pages in MENU.items() if open_page in pages), "Explore")
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="menu"):
        st.html(NAME, width="content")
        for name, pages in MENU.items():
            st.page_link(_page(pages[0]), label=f"**{name}**" if name == part else name, width="content")
    if open_page != FIRST:
        draw_further(part, open_page)


def draw_further(part: str, open_page: str) -> None:
    """A row of links to the pages of a part of the app, where it has several."""
    if len(MENU[part]) > 1:
        with st.container(horizontal=True, vertical_alignment="center", gap="small", key="submenu"):
            for name in MENU[part]:
                st.page_link(_page(name), label=f"**{name}**" if name == open_page else name, width="content")


def _lead_on(name: str) -> None:
    st.switch_page(_page(name), query_params=st.query_params.to_dict())


def _page(name: str) -> st.Page:
    path = None if name == FIRST else name.lower().replace(" ", "-")
    return st.Page(PAGES[name], title=name, url_path=path, default=name == FIRST)
