"""The page Contrast: which experts tell two kinds of text apart, and what turning them up does to the model's loss."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import pandas as pd
import streamlit as st

from moeviz.capture.interventions.parameter import AMOUNTS
from moeviz.charts.comparison import CONTRAST
from moeviz.embedded import EMBEDDED
from moeviz.formats.steering_map import FACTS, NUMBERS, to_steering_map
from moeviz.metrics.contrast import (
    FEWEST,
    FIRST_TOKENS,
    contrast_sentence,
    first_half,
    first_tokens,
    steering_sentence,
    texts_of_label,
    turned,
)
from moeviz.metrics.tokens import written_text
from moeviz.routing_trace import RoutingTrace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.recorded import cached_for_example, names_of
from moeviz_app.jobs.run_request import usual_temperature
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url.fields import page_address, short_text
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.components.texts import written
from moeviz_app.widgets.messages import escape_markdown, explained, say
from moeviz_app.widgets.run_panel import waited_for

if TYPE_CHECKING:
    from moeviz.capture.models.load import LoadedModel

FIRST_KINDS = ("French", "German")  # of the texts that ship, at first
OTHERS = "other kinds"
LONGEST, BEGINNING, WRITTEN = 200, 12, 40  # characters of the text to continue; tokens of it at first, and written
MOST_TEXTS = 8  # of each set that the model reads
READS = "The model reads three sets of texts, with the experts turned and without …"
ADDRESS = page_address(short_text("first", session.FIRST_KIND), short_text("second", session.SECOND_KIND))


def contrast_page() -> None:
    """Choose two kinds of text; see the experts that tell them apart, and turn these up and down."""
    st.title("Contrast", anchor=False)
    if visit().why_waiting is not None:
        return  # for a model of a stranger's choice, of which nothing may be fetched
    trace = session.shown_trace()
    kinds = _kinds(trace)
    if len(kinds) < 2:
        enough = "only one kind has" if kinds else "no kind has"
        say(f"Contrast needs two kinds with at least {FEWEST} texts each; here {enough} that many.")
        return
    one, other = _choose(kinds)
    with explained():
        beginnings = first_tokens(trace)
        halves = tuple(first_half(texts_of_label(beginnings, kind)) for kind in (one, other))
        found = CONTRAST.measure(halves)
        st.container(border=True, key="answer").text(contrast_sentence(found, (one, other)))
        heading(CONTRAST)
        names = names_of(trace.model, [trace, *recent.traces().values()])
        picture_and_words(CONTRAST, found, model=trace.model, names=names)
        st.markdown(
            f"Of each text, the first {FIRST_TOKENS} tokens are taken: this is counted in the first half of them, and "
            "what follows is measured on the second."
        )
        _dial(trace, found, (one, other))


def _kinds(trace: RoutingTrace) -> list[str]:
    if "label" not in trace.tokens:
        return []
    texts = trace.tokens.groupby("label", observed=True)["sequence"].nunique()
    return [str(kind) for kind in trace.tokens["label"].unique() if texts.get(kind, 0) >= FEWEST]


def _choose(kinds: list[str]) -> tuple[str, str]:
    keys = (session.FIRST_KIND, session.SECOND_KIND)
    usual = FIRST_KINDS if set(FIRST_KINDS) <= set(kinds) else tuple(kinds[:2])
    for key, kind in zip(keys, usual, strict=True):
        if session.value(key) not in kinds:
            session.set_value(key, kind)
    with st.container(horizontal=True):
        one, other = (
            st.selectbox(label, kinds, key=key, width=280, persist_state="session")
            for key, label in zip(keys, ("First kind", "Second kind"), strict=True)
        )
    return one, other


def _dial(trace: RoutingTrace, found: pd.DataFrame, kinds: tuple[str, str]) -> None:
    """Turn the experts of the first kind up and those of the second down, and say what that does to three losses."""
    amounts = turned(found, 1.0)
    if not amounts or kinds[0] == kinds[1]:
        return
    st.subheader(f"Turn {kinds[0]} up?", anchor=False)
    if (why := model_catalog.why_only_read(trace.model.name)) is not None:
        say(why)
        return
    if trace is recorded.held_out(EMBEDDED):
        from moeviz.recorded_answers import recorded_steering

        st.text(steering_sentence(cached_for_example(trace, "steering", recorded_steering)))
    session.start_with(session.AMOUNT, 2.0)
    session.start_with(session.CONTINUED, _beginning(trace, kinds[1]))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        amount = st.select_slider("Added to the scores", AMOUNTS, key=session.AMOUNT, width=320)
        most = min(LONGEST, settings.SETTINGS.max_prompt_chars)
        text = st.text_input("A text to continue", key=session.CONTINUED, max_chars=most, width=320)
        asked = st.button("Measure", type="primary", shortcut="mod+enter")
    count = sum(map(len, amounts.values()))
    st.text(
        f"Of {count} experts above, those that take more of {kinds[0]} get this added to their score before each "
        f"router chooses, and those that take more of {kinds[1]} get it taken away. Measure takes up to "
        f"{3 * 2 * MOST_TEXTS} forwards of {FIRST_TOKENS} tokens and writes two texts, while nobody else waits."
    )
    if asked:
        model_catalog.check_on_offer(trace.model.name)
        model_service.begin_run(dear=True)
        visit().dialled = (trace, kinds, amount, text, _measured(trace, kinds, turned(found, amount), text))
    if (known := visit().dialled) is not None and known[0] is trace and known[1:4] == (kinds, amount, text):
        losses, texts = known[4]
        _show(losses, kinds)
        _show_texts(texts, f"{kinds[0]} turned {'up' if amount > 0 else 'down'} by {abs(amount):g}")
    st.download_button(
        "Map of these experts",
        data=model_service.file_maker(partial(_map, amounts, trace)),
        file_name="experts-to-steer-by.zip",
        mime="application/zip",
        on_click="ignore",
        icon=":material/download:",
        help="+1 for the experts that take more of the first kind and -1 for those that take more of the second, for "
        "`moeviz what-if --bias` and for engines that steer by experts, such as ds4.",
    )


def _beginning(trace: RoutingTrace, kind: str) -> str:
    """Return the first words of a text of this kind: turning another kind up is to lead away from it."""
    sequences = trace.tokens.loc[trace.tokens["label"].astype(str) == kind, "sequence"]
    is_first = (trace.tokens["sequence"] == sequences.iloc[0]) & (trace.tokens["position"] < BEGINNING)
    text = written_text(trace.select(tokens=is_first.to_numpy())).strip()[:LONGEST]
    return text.rpartition(" ")[0] or text


def _map(amounts: dict[int, dict[int, float]], trace: RoutingTrace) -> bytes:
    file = BytesIO()
    with ZipFile(file, "w") as archive:
        for suffix, data in zip((FACTS, NUMBERS), to_steering_map(amounts, trace.model), strict=True):
            archive.writestr(f"experts-to-steer-by{suffix}", data)
    return file.getvalue()


def _measured(
    trace: RoutingTrace, kinds: tuple[str, str], amounts: dict[int, dict[int, float]], text: str
) -> tuple[pd.DataFrame, list[RoutingTrace]]:
    """The losses of both kinds and of a third set that neither is in, and a text continued without and with the change.

    Raises what runs raise.
    """
    from moeviz.capture.interventions.bias import Bias

    model_catalog.bring_torch()
    from moeviz.analyses.what_if import loss_by_set
    from moeviz.capture.run.decoding import Sampling
    from moeviz.capture.run.request import CaptureRequest
    from moeviz.capture.trace import capture

    labels = trace.tokens["label"].astype(str)
    rows = {kind: labels == kind for kind in kinds} | {OTHERS: ~labels.isin(kinds)}
    sets = {name: _texts(trace, mask.to_numpy()) for name, mask in rows.items() if mask.any()}
    new = min(WRITTEN, settings.SETTINGS.max_new_tokens)

    def work(loaded: "LoadedModel", tell: Callable[[Any], None]) -> tuple[pd.DataFrame, list[RoutingTrace]]:
        plain = CaptureRequest(
            (text,), max_new_tokens=new, sampling=Sampling(temperature=usual_temperature(trace.model.name))
        )
        asked = [plain, replace(plain, intervention=Bias(amounts))] if text and new else []
        losses = loss_by_set(loaded, sets, Bias(amounts), progress=lambda *at: tell(at))
        return losses, [capture(loaded, request) for request in asked]

    progress = model_service.run_on_model(trace.model.name, session.how(), work, dear=True)
    return waited_for(progress, READS, "texts read")


def _texts(trace: RoutingTrace, mask: Any) -> RoutingTrace:
    """Return some of the texts, evenly from all, and of each the beginning: a model reads them while somebody waits."""
    sequences = trace.tokens.loc[mask, "sequence"].unique()
    some = sequences[:: -(-len(sequences) // MOST_TEXTS)]
    return first_tokens(trace.select(tokens=trace.tokens["sequence"].isin(some).to_numpy()))


def _show(losses: pd.DataFrame, kinds: tuple[str, str]) -> None:
    """Draw the losses before and after, and those of the third set: what harms all texts equally does not steer."""
    with st.container(horizontal=True, gap="large"):
        for row in losses.itertuples():
            st.metric(
                f"Loss of {row.texts}",
                f"{row.loss_changed:.3f}",
                f"{row.loss_changed - row.loss:+.3f} nats per token",
                delta_color="inverse",
                help=f"{row.tokens:,} tokens; {row.loss:.3f} without the change. Lower is better predicted.",
            )
    change = dict(zip(losses["texts"], losses["loss_changed"] - losses["loss"], strict=True))
    said = f"{kinds[0]} is predicted {_better(change[kinds[0]])}, {kinds[1]} {_better(change[kinds[1]])}"
    said += f", and {OTHERS} {_better(change[OTHERS])}." if OTHERS in change else "."
    st.text(said)


def _show_texts(texts: list[RoutingTrace], change: str) -> None:
    """One text, side by side; what it shows stands in the losses above it."""
    if not texts:
        return
    for place, trace, says in zip(st.columns(2), texts, ("As it is", change), strict=True):
        with place:
            st.caption(escape_markdown(says))
            written(trace, key=f"continued {says}")
    st.text("One text proves nothing: the losses above are the finding.")


def _better(change: float) -> str:
    if abs(change) < 0.0005:
        return "as before"
    return f"{'worse' if change > 0 else 'better'} by {abs(change):.3f} nats per token"
