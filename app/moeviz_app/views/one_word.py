"""The page One word: type over a word of the text, and see which first choices change."""

from collections.abc import Mapping
from dataclasses import replace

import streamlit as st

from moeviz.charts import theme
from moeviz.charts.effect import WORD_CHANGE
from moeviz.embedded import EMBEDDED
from moeviz.metrics.effect import OTHER, kept_rows, word_change_summary
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import RoutingTrace
from moeviz.text import cut
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, cached_for_example, names_of, names_of_layer
from moeviz_app.jobs.run_request import LONGEST as LONGEST_IN_LINK
from moeviz_app.jobs.run_request import RunRequest, number_in
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import PageAddress
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.components.texts import CHANGED, NEW, Edit, colours_of, token_strip, told, word_edit
from moeviz_app.widgets.messages import explained, refuse
from moeviz_app.widgets.run_panel import run_live

EXAMPLE = RunRequest(EXAMPLES[MIXED], EMBEDDED)
EXAMPLE_EDIT = Edit(4, 10, "code")  # instead of "letter"
WORDS = "words"  # key of the text
GOES_ON = "the edited text goes on"  # key of its Stop: a link may have run the text in the same script
LINES = ("As it was", "With the word changed")
LONGEST = 40  # characters of a word in the sentence
MARKS = (
    "A token whose first choice is another one has its full colour and a mark above it; the changed word is framed. "
    "Only tokens that both texts have are compared."
)
BEFORE = 16  # tokens before the word, if a text is too long to be shown whole


def one_word_page() -> None:
    """Choose a word of the text on screen, or of the example, and read the text with another one in its place."""
    st.title("One word", anchor=False)
    if visit().why_waiting is not None:
        return  # for a model of a stranger's choice, of which nothing may be fetched
    run = EXAMPLE if session.is_example() else recent.run_of(session.shown_trace()) or EXAMPLE
    if visit().word_change is not None and visit().word_change[0] != run:
        visit().word_change = None
    edit = None
    with explained(refuse):
        edit = _requested_edit(run)
    known = visit().word_change and visit().word_change[1]
    if edit is None and known is None and run == EXAMPLE:
        edit = EXAMPLE_EDIT
    word_edit(run.prompt, edit or known, _take, key=WORDS)
    if edit not in (None, known):
        with explained(refuse):
            visit().word_change = (run, edit, *_both(run, edit))
    if visit().word_change is not None:
        with explained():
            _show(*visit().word_change)


def _take() -> None:
    visit().word_asked = getattr(session.value(WORDS), "edit", None)


def _requested_edit(run: RunRequest) -> Edit | None:
    """Return the edit to make now: typed, or linked and the model at hand. Raises `InvalidPrompt` if too long."""
    typed, visit().word_asked = visit().word_asked, None
    if typed is None and (typed := visit().word_linked) is not None:
        if not model_service.at_hand(run.model, run.how) and not st.button("Run with the word of the link"):
            return None
        visit().word_linked = None
    return told(typed, run.prompt, settings.SETTINGS.max_prompt_chars)


def _both(run: RunRequest, edit: Edit) -> tuple[RoutingTrace, RoutingTrace]:
    """Read the text with and without the edit on this machine, the example too: it may be another machine's."""
    model_catalog.check_on_offer(run.model)
    if run == EXAMPLE:
        plain = cached_for_example(recorded.example(), WORDS, lambda: run_live(run, key="the example goes on"))
    else:
        plain = session.shown_trace()
    changed = replace(run, prompt=edit.of(run.prompt), new_tokens=0)
    if (run, edit) == (EXAMPLE, EXAMPLE_EDIT):
        return plain, cached_for_example(recorded.example(), edit, lambda: run_live(changed, GOES_ON))
    return plain.select(tokens=(plain.tokens["phase"] == "prompt").to_numpy()), run_live(changed, GOES_ON)


def _show(run: RunRequest, edit: Edit, one: RoutingTrace, other: RoutingTrace) -> None:
    """Show the answer in a sentence; both texts by first choice at a layer; and the map of all layers."""
    changes, kept = WORD_CHANGE.measure((one, other)), kept_rows((one, other))
    was, now = (f"“{cut(visible(text), LONGEST)}”" for text in (run.prompt[edit.start : edit.end], edit.text))
    st.container(border=True, key="answer").text(f"{was} → {now}: {word_change_summary(changes)}")
    layers, by_layer = one.model.layers, changes["kind"].eq(OTHER).groupby(changes["layer"]).sum()
    layer = layers[0]
    if len(layers) > 1:  # at first the one with the most changes
        layer = st.select_slider(
            "Layer", layers, value=int(by_layer.idxmax()), key=f"word layer {edit}", width=420, help=MARKS
        )
    start = max(0, kept[2] - BEFORE) if len(kept[0]) > theme.MAX_TOKENS else 0
    there = changes[(changes["layer"] == layer) & changes["kind"].eq(OTHER)]
    for side, (column, trace) in enumerate(zip(st.columns(2, gap="medium"), (one, other), strict=True)):
        with column:
            st.markdown(f"**{LINES[side]}**")
            _strip(side, trace, layer, start, kept[side].tolist(), there[("row", "other_row")[side]].tolist())
    heading(WORD_CHANGE)
    picture_and_words(WORD_CHANGE, changes[changes["place"].between(start, start + theme.MAX_TOKENS - 1)])


def _strip(side: int, trace: RoutingTrace, layer: int, start: int, kept: list[int], changed: list[int]) -> None:
    """Draw one of the two texts. A click on a token that both have marks it in both."""
    rows = range(start, min(len(trace.tokens), start + theme.MAX_TOKENS))
    marks = dict.fromkeys(set(rows) - set(kept), NEW) | dict.fromkeys(changed, CHANGED)
    place, key = visit().word_place, f"word strip {side}"

    def pick() -> None:
        row = int(session.value(key).pick)
        visit().word_place = kept.index(row) if row in kept else None

    selected = kept[place] if place is not None and place < len(kept) else None
    names = names_of_layer(names_of(trace.model, recent.traces().values()), layer)
    token_strip(trace, layer, rows, selected, colours_of(trace, layer, rows), pick, key, marks, names)


def _word_written() -> dict[str, str]:
    """Return the word that was typed over, and its replacement."""
    if (found := visit().word_change) is None or len(found[1].of(found[0].prompt)) > LONGEST_IN_LINK:
        return {}
    start, end, text = found[1]
    return {"word": f"{start}-{end}", "becomes": text}


def _ask_for_word(query: Mapping[str, str]) -> None:
    """Remember which word is replaced by what; the page checks it against its text."""
    start, end = (number_in(part) for part in query.get("word", "").partition("-")[::2])
    text = query.get("becomes", "")
    visit().word_linked = {"start": start, "end": end, "text": text} if start is not None and end is not None else None


ADDRESS = PageAddress(_word_written, _ask_for_word)
