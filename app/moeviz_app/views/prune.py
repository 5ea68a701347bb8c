"""The page Prune: which experts a model can do without, what that costs, and files to cut them by."""

from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from moeviz.charts.pruning import COST, KINDS, NAMES
from moeviz.embedded import EMBEDDED
from moeviz.errors import CaptureError
from moeviz.labelled_texts import texts_that_ship
from moeviz.metrics.pruning import RANDOM, SHARES
from moeviz.text import quoted
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.fair_queue import Tell
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, cached_for_example, example
from moeviz_app.jobs.run_request import MOST_MUTED, RunRequest
from moeviz_app.server import identity
from moeviz_app.session import session
from moeviz_app.session.visit import visit
from moeviz_app.views.corpus import Texts, choose_texts
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.messages import example_note, explained, note, say
from moeviz_app.widgets.pickers import choice_of
from moeviz_app.widgets.run_panel import waited_for

if TYPE_CHECKING:
    from moeviz.analyses.pruning.result import PruningCurve
    from moeviz.capture.models.load import LoadedModel

READS = "The model reads the texts with and without experts …"
WRITES = "The smaller model is written …"
FIRST_TOKENS = 64  # of each text: a model reads it some twenty times while somebody waits
DRAWS = 3
USUAL = ("reap", "frequency")  # next to the draws at random
SUFFIXES = {"llm-compressor": "json"}
FORM_HELP = {
    "moeviz": "The experts of each layer, the most needed first, with their scores and what the choice rests on.",
    "vllm-ascend": "The experts of each layer, the most needed first, as its `expert_list_file` takes them.",
    "llm-compressor": "The experts of each layer that stay, as its REAP modifier reports them.",
}


def prune_page() -> None:
    """Choose texts; see what a model loses without the experts that half of them need least, on the other half."""
    st.title("Prune", anchor=False)
    st.markdown(
        "Which experts can the model do without? Half of the texts choose those that go, and the other half judge, "
        "next to experts cut at random."
    )
    if visit().why_waiting is not None:
        return  # for a model of a stranger's choice, of which nothing may be fetched
    name = session.value(session.MODEL) or settings.SETTINGS.models[0]
    if (why := model_catalog.why_only_read(name)) is not None:
        say(why)
        return
    st.text(f"Model: {name}")
    ours = name == EMBEDDED and session.how() == model_catalog.DEFAULT_LOAD
    with explained():
        with st.expander("Texts and criteria", expanded=visit().pruning is None and not ours):
            texts = choose_texts(session.PRUNING_SOURCE, "Evaluation set")
            criteria = _choose_criteria()
            asked = (name, session.how(), tuple(texts), criteria)
            chose = (len(texts) + 1) // 2
            most = chose + (len(texts) - chose) * (1 + len(SHARES) * (len(criteria) - 1 + DRAWS))
            st.text(f"Measure takes up to {most:,} forwards of at most {FIRST_TOKENS} tokens, while nobody else waits.")
            if st.button("Measure", type="primary", shortcut="mod+enter"):
                model_catalog.check_on_offer(name)
                model_service.begin_run(dear=True)
                visit().pruning = (asked, _measured(name, texts, criteria))
        if (known := visit().pruning) is not None and known[0] == asked:
            _show(name, known[1])
        elif ours and (curve := _recorded(tuple(texts), criteria)) is not None:
            example_note("To measure other texts or criteria, open “Texts and criteria”.")
            _show(name, curve)


def _recorded(texts: tuple[tuple[str, str], ...], criteria: tuple[str, ...]) -> "PruningCurve | None":
    """Return the curve that ships, read once for all, if these are its texts and criteria."""
    from moeviz.recorded_answers import CRITERIA, recorded_curve

    if texts != tuple(texts_that_ship()) or set(criteria) != {*CRITERIA}:
        return None
    return cached_for_example(example(), "pruning", lambda: recorded_curve(texts))


def _choose_criteria() -> tuple[str, ...]:
    session.start_with(session.CRITERIA, [*USUAL])
    offered = [name for name in NAMES if name != RANDOM]
    chosen = st.multiselect(
        "Experts are chosen by",
        offered,
        key=session.CRITERIA,
        format_func=NAMES.get,
        width=620,
        help="Whatever is chosen here is compared with experts that are cut at random.",
        persist_state="session",
    )
    return (*(name for name in offered if name in chosen), RANDOM)


def _measured(name: str, texts: Texts, criteria: tuple[str, ...]) -> "PruningCurve":
    """Measure the curve as the model's turn comes. Raises what runs raise."""
    model_catalog.bring_torch()
    from moeviz.analyses.pruning.curve import pruning_curve

    def work(loaded: "LoadedModel", tell: Tell) -> "PruningCurve":
        how = {"criteria": criteria, "draws": DRAWS, "tokens": FIRST_TOKENS}
        return pruning_curve(loaded, texts, **how, progress=lambda done, total: tell((done, total)))

    return waited_for(model_service.run_on_model(name, session.how(), work, dear=True), READS, "texts read")


def _show(name: str, curve: "PruningCurve") -> None:
    """Draw what cuts cost, in words and as a curve; then one cut: who pays for it, and what can be done with it."""
    from moeviz.analyses.pruning.result import pruning_sentences

    cuts = sorted(curve.losses["cut"].unique().tolist())
    criteria = [by for by in NAMES if by in set(curve.losses["criterion"]) - {RANDOM}]
    with st.container(border=True, key="answer"):
        for sentence in pruning_sentences(curve, criteria[0] if criteria else RANDOM):
            st.text(sentence)
    whole = "“moeviz prune” reads them whole, and of chats with --segment the tokens of one segment."
    note(f"Of each text the first {curve.tokens} tokens are read. {whole}")
    heading(COST)
    picture_and_words(COST, COST.measure(curve.losses))
    if not criteria:
        return
    with st.container(horizontal=True):
        how_many = "Experts cut from each layer"
        cut = choice_of(st.segmented_control, how_many, cuts, session.CUT, cuts[0]) or cuts[0]
        by = choice_of(
            st.selectbox, "Chosen by", criteria, session.CUT_BY, criteria[0], format_func=NAMES.get, width=320
        )
    rows = curve.losses[(curve.losses["cut"] == cut) & curve.losses["criterion"].isin((by, RANDOM))]
    kinds = KINDS.measure(rows)
    if not kinds.empty:
        heading(KINDS)
        picture_and_words(KINDS, kinds)
    _act(name, curve, by, cut)


def _act(name: str, curve: "PruningCurve", by: str, cut: int) -> None:
    """See the cut in a text, take the ranking along, and on one's own machine write the smaller model."""
    st.subheader("Cut them", anchor=False)
    gone = curve.cut(by, cut)
    st.text("; ".join(f"layer {layer}: {', '.join(map(str, experts))}" for layer, experts in gone.items()))
    muted = tuple((layer, expert) for layer, experts in gone.items() for expert in experts)
    from moeviz.analyses.pruning.rankings import ranking

    with st.container(horizontal=True, vertical_alignment="center"):
        if len(muted) <= MOST_MUTED:
            run = RunRequest(EXAMPLES[MIXED], name, mute=muted)
            session.link_to("Explore", "See a text without them", query=run.parameters())
        for form in FORM_HELP:
            st.download_button(
                f"For {form}",
                data=model_service.file_maker(partial(ranking, curve, by, form, cut)),
                file_name=f"experts-{by}-{cut}.{SUFFIXES.get(form, 'jsonl')}",
                mime="application/json",
                on_click="ignore",
                key=f"ranking {form}",
                icon=":material/download:",
                help=FORM_HELP[form],
            )
    if identity.may_keep_on_disk():
        _write(name, curve, by, cut)


def _write(name: str, curve: "PruningCurve", by: str, cut: int) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        target = st.text_input(
            "A new folder on this machine",
            key=session.SMALLER,
            placeholder="smaller",
            width=420,
            persist_state="session",
        )
        asked = st.button("Write the model without them", disabled=not target)
    if not asked:
        return
    with explained():
        from moeviz.analyses.pruning.checkpoint import Checkpoint
        from moeviz.analyses.pruning.rankings import evidence

        checkpoint, about = Checkpoint.of(name, curve.model.revision), evidence(curve, by) | {"cut": cut}

        def work(tell: Tell) -> Any:
            return checkpoint.write(target, curve.cut(by, cut), about, lambda done, total: tell((done, total)))

        try:
            written = waited_for(model_service.dataset_runner()(work), WRITES, "bytes written")
        except OSError as error:
            raise CaptureError(
                f"{quoted(target)} could not be written: {error.strerror}. Name another folder."
            ) from error
        (before, after), (was, now) = written.experts, written.size
        say(
            f"Wrote {quoted(target)}: {after:,} of {before:,} experts per layer, {now / 1e6:,.1f} MB of weights "
            f"instead of {was / 1e6:,.1f} MB."
        )
