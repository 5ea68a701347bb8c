"""The place Experts: the atlas of many texts, a card or a cell for each expert, and who takes a word.

For the held-out texts of our own models, any trace that is open here, or a sample of the dataset on screen.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from moeviz.charts import theme
from moeviz.charts.routes import MAP
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import NATURAL
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.errors import DamagedShard, MoevizError
from moeviz.metrics.atlas import Atlas
from moeviz.metrics.expert_names import sample_of_texts
from moeviz.metrics.expert_table import breadth_sentence, chance_sentence
from moeviz.metrics.paths import ExpertMap, expert_map
from moeviz.metrics.who_takes import FEW, WordTokens, tokens_of_word, who_takes, who_takes_sentence
from moeviz.metrics.words import in_words_of
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs import recorded
from moeviz_app.jobs.recorded import names_of, once_per_trace
from moeviz_app.session import datasets, recent, session
from moeviz_app.session.subject import subject
from moeviz_app.url import navigation
from moeviz_app.url.fields import PageAddress, choice, read_fields, short_text, write_fields
from moeviz_app.url.navigation import expert_query, for_the_address
from moeviz_app.widgets.answers import damage, whole
from moeviz_app.widgets.chart_panel import picture_and_words, tag
from moeviz_app.widgets.components.atlas import atlas, packed_atlas, packed_found, search, typed
from moeviz_app.widgets.expert_links import follow_click, open_expert
from moeviz_app.widgets.messages import escape_markdown, explained, note, say
from moeviz_app.widgets.pickers import choice_of

PATH = "experts"
ATLAS, SEARCH = "atlas", "atlas search"  # keys of the components
TRIES = ("SELECT", "return", "la", "{", "7", "digits")
VIEWS = (ATLAS_VIEW, MAP_VIEW) = ("Atlas", "Map")
FIELDS = ((short_text("find", session.WORD, cleared=True),), (choice("view", session.EXPERTS_VIEW, {MAP_VIEW: "map"}),))


def _ask(query: Mapping[str, str]) -> None:
    for fields in FIELDS:
        read_fields(fields, query)


ADDRESS = PageAddress(lambda: write_fields(FIELDS[0]) | write_fields(FIELDS[1]), _ask)


def experts_page() -> None:
    """Draw the search and the atlas."""
    drawn = False
    with explained():
        drawn = _draw()
    if not drawn:
        navigation.write(PATH)


def _draw() -> bool:
    heading = st.container(horizontal=True, vertical_alignment="center", gap="small", key="experts heading")
    with heading:
        title, facts = st.empty(), st.empty()
        view = choice_of(
            st.segmented_control, "View", VIEWS, session.EXPERTS_VIEW, ATLAS_VIEW, label_visibility="collapsed"
        )
        tag()
    title.title("Experts", anchor=False, width="content")
    if (trace := texts_on_screen()) is None:
        return False
    if view == MAP_VIEW:
        _map(trace)
        return False
    names = names_of(trace.model, [trace, *recent.traces().values()])
    data, found = packed_atlas(trace, names)
    total = sum(trace.model.num_experts)
    title.title(
        f"What the {total:,} experts do" if total > 1 else "What the expert does", anchor=False, width="content"
    )
    facts.markdown(f":small[{escape_markdown(_facts(found, trace))}]", width="content")
    tries = TRIES if subject().id in ROUTING else _words_of(found)
    _search(found, data["id"], said_of_names(names, found), tries)
    _atlas(data)
    return True


@once_per_trace
def _map_of(trace: RoutingTrace) -> ExpertMap:
    return expert_map(sample_of_texts(trace))


def _map(trace: RoutingTrace) -> None:
    follow_click()
    found = _map_of(trace)
    st.text(in_words_of(trace.model, found.sentence()))
    picture_and_words(MAP, MAP.measure(found), trace)


def say_sample(trace: RoutingTrace) -> None:
    """Say so where what follows is of a sample of a large trace."""
    if (tokens := len(sample_of_texts(trace).tokens)) < len(trace.tokens):
        note(f"Of a sample of {tokens:,} of its {len(trace.tokens):,} tokens, whole texts of each kind.")


def texts_on_screen() -> RoutingTrace | None:
    """Return the subject's texts, or a dataset's sample; None if the page has explained why it has none."""
    shown = session.dataset()
    if shown is None:
        trace = session.shown_trace()
        if trace.tokens.empty:
            say("This trace contains no tokens, so there is nothing to draw. Run a prompt, or open another file.")
        return None if trace.tokens.empty else trace
    if not whole(shown):
        return None
    try:
        return datasets.sample(shown)
    except DamagedShard as error:
        damage(shown, error)
        return None


def _facts(found: Atlas, trace: RoutingTrace) -> str:
    """Report what the subject bar does not: whether the texts are held out or a sample, and what the colours are."""
    model, tokens, shown = found.trace.model, len(found.trace.tokens), session.dataset()
    all_tokens = len(trace.tokens) if shown is None else shown.dataset.tokens
    held = ["texts that the model never saw"] if subject().id in ROUTING else []
    part = [f"{tokens:,} tokens, a sample of {all_tokens:,}"] if all_tokens > tokens else []
    coloured = (
        "in its first expert’s colour"
        if max(model.num_experts) <= len(theme.EXPERT_COLOURS)
        else "coloured by its first expert’s name"
    )
    return in_words_of(model, "; ".join([*held, *part, f"a column per token, {coloured}"]))


def said_of_names(names: pd.DataFrame | None, found: Atlas) -> tuple[str, str]:
    """Report the number of experts with a kind of text, and by chance; or why none is named."""
    total = sum(found.trace.model.num_experts)
    if (one := subject().id) in ROUTING:
        control = chance_sentence(recorded.names_by_chance()[one], total)
        return breadth_sentence(recorded.expert_table(one)), f"{control} {_sibling(one)}".strip()
    if names is None:
        return (
            "Experts have no names here:",
            "a name is chosen on some texts and tested on others, and this is one text. Open a trace of several, best "
            "with labels.",
        )
    held = int(names["holds"].sum())
    how = "it was chosen on half of the texts and tested on the other half."
    if found.by != "kinds" and set(names["by"]) <= {"", "tokens"}:
        how += " These texts have no labels, so names are classes of tokens."
    if not held:
        return (
            f"None of the {total:,} experts has a kind of text:",
            "what fits half of the texts does not fit the other half.",
        )
    return f"{held:,} of the {total:,} experts have a kind of text, and {total - held:,} have none:", how


def _sibling(name: str) -> str:
    """Return the same count for the model that was not pushed to specialise, next to the one that was."""
    if name != EMBEDDED:
        return ""
    _, narrow, broad, without = breadth_sentence(recorded.expert_table(NATURAL)).values.values()
    return f"In a sibling left alone in training: {narrow}, {broad} and {without}."


def _words_of(found: Atlas) -> list[str]:
    """Suggest words to try: the most frequent ones of several letters."""
    texts = found.trace.tokens["text"]
    words = texts[texts.str.match(r"^ ?[^\W\d_]{3,12}$")].str.strip().value_counts()
    return [str(word) for word in words[words >= FEW].index[:5]]


@st.fragment
def _search(found: Atlas, id_: int, otherwise: tuple[str, str], tries: list[str]) -> None:
    """Draw the box, and the answer to its word. A fragment: the atlas is not sent anew."""
    word, said, answer = session.value(session.WORD) or "", otherwise, None
    if word:
        try:
            said, answer = answer_to(found, word, id_)
        except MoevizError as why:
            said = "", str(why)
    search(word, said, answer, tries, key=SEARCH, on_word=_keep_word)
    navigation.write(PATH)


def _keep_word() -> None:
    session.set_value(session.WORD, typed(session.value(SEARCH)))


def answer_to(found: Atlas, word: str, id_: int) -> tuple[tuple[str, str], dict[str, Any]]:
    """Return the sentence on a search, its claim separate from the comparison; and what the atlas highlights.

    Raises `MoevizError` for a word that cannot be searched for.
    """
    hits = tokens_of_word(found.trace, word)
    takers = who_takes(found.trace, hits.tokens)
    return _search_sentence(found, hits, takers), packed_found(hits, takers, found, id_)


def _search_sentence(found: Atlas, hits: WordTokens, takers: pd.DataFrame) -> tuple[str, str]:
    sentence = in_words_of(found.trace.model, who_takes_sentence(hits, takers, found.trace.weights is not None))
    claim, beside, rest = sentence.partition("; ")
    return (claim + beside.strip(), rest) if beside and hits.count >= FEW else ("", sentence)


@st.fragment
def _atlas(data: dict) -> None:
    """Draw the map, and the experts. A fragment: a click draws nothing else anew."""
    query = for_the_address(expert_query(0, 0))
    constant = {name: value for name, value in query.items() if name not in ("layer", "expert")}
    opened = atlas(data, constant, key=ATLAS, on_open=lambda: None)
    if opened is not None:
        open_expert(expert_query(*opened))
