"""Jobs of the page of an expert, for what a trace lacks: weights, the loss without the expert, router rows."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from moeviz.embedded import EMBEDDED
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.metrics.routes import RouteRegret, expected_cost, expected_seconds, joined_regret
from moeviz.own_folder import keep_table, kept_table
from moeviz.routing_trace import RoutingTrace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.background import Background, Piece
from moeviz_app.jobs.fair_queue import wait_for
from moeviz_app.jobs.model_catalog import DEFAULT_LOAD, LoadOptions
from moeviz_app.server import identity
from moeviz_app.session import recent, session
from moeviz_app.url.navigation import expert_query
from moeviz_app.views.expert_context import ExpertInTrace
from moeviz_app.widgets.expert_links import go_to_expert
from moeviz_app.widgets.messages import escape_markdown, explained, note, say
from moeviz_app.widgets.run_panel import waiting_words

Depends = Callable[[], str | None]  # all that a result depends on, as a text; None where not all of it is known


def store_long(name: str, kind: str, depends: Depends, found: pd.DataFrame) -> None:
    """Store a result for this visit and, for the machine's own user, for later ones, in the folder of its kind."""
    session.keep_result(name, found)
    if identity.may_keep_on_disk() and (all_of_it := depends()) is not None:
        keep_table(kind, _hash(all_of_it), found)


def load_long(name: str, kind: str, depends: Depends) -> pd.DataFrame | None:
    """Return a result of this visit or of an earlier one; None if there is none."""
    found: pd.DataFrame | None = session.result(name)
    if found is None and identity.may_keep_on_disk() and (all_of_it := depends()) is not None:
        found = kept_table(kind, _hash(all_of_it))
        if found is not None:
            session.keep_result(name, found)
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


if TYPE_CHECKING:
    from moeviz.capture.models.load import LoadedModel

FEWEST_TOKENS = 2  # of a text whose routes are judged
JOB = "work for an expert"  # one at a time: a visitor's own
SECONDS_BETWEEN_LOOKS = 0.7
MUTED = "muted"  # folder of what is kept
HOW_MUTED = 1  # counts up where `muted_by_label` comes to other numbers than before
Pairs = Sequence[tuple[str, str]]
Keep = Callable[[str, Any], None]


def muted(seen: ExpertInTrace) -> pd.DataFrame | None:
    """Return what each kind of text loses without the expert, where that is known; see `muted_by_label`."""
    if seen.held_out and seen.model.name == EMBEDDED:
        return recorded.reference_muted()
    return load_long(_name("muted", seen), MUTED, lambda: _muting_depends(seen))


def rows(seen: ExpertInTrace) -> pd.DataFrame | None:
    """Return the geometry of the layer's router, where that is known; see `router_geometry`."""
    return session.result(_rows_name(seen))


def offer_muting(seen: ExpertInTrace) -> None:
    """Offer to compute the loss without the expert in the background; then say how far it is."""
    words = f"Read the texts without expert {seen.expert}"
    why = (
        "Every text is read twice: as the model is, and with this expert muted, so that its router takes the next best."
    )

    def keep(name: str, found: pd.DataFrame) -> None:
        store_long(name, MUTED, lambda: _muting_depends(seen), found)

    finish = partial(pd.concat, ignore_index=True)
    _offer(_name("muted", seen), words, why, lambda: _muting(seen), finish, keep)


def offer_weights(seen: ExpertInTrace) -> None:
    """Offer to trace the texts again, with weights; that trace then replaces the one on screen."""

    if offer_reading(seen.trace, "Read the texts again, with weights", "The new trace joins your recent ones."):
        go_to_expert(expert_query(seen.layer, seen.expert))


def offer_reading(trace: RoutingTrace, words: str, why: str, outputs: bool = False) -> bool:
    """Offer to trace the texts of a trace again; return whether it was just done, so that its trace is on screen.

    words, why   of the button, and on hover.
    outputs      whether figures of what experts put out are recorded too.
    """

    def piece(pair: tuple[str, str]) -> Piece:
        from moeviz.capture.corpus import trace_corpus

        return lambda loaded, _tell: trace_corpus(loaded, [pair], outputs=outputs)

    def joined(parts: list[RoutingTrace]) -> RoutingTrace:
        from moeviz.capture.record.joining import joined

        again = joined(parts)
        return again if "label" in trace.tokens else replace(again, tokens=again.tokens.drop(columns="label"))

    name = f"{'outputs' if outputs else 'weights'} of {id(trace)}"
    _offer(name, words, why, lambda: _on_model(trace, [piece(pair) for pair in _pairs(trace)]), joined)
    again = session.result(name)
    if again is None:
        return False
    session.forget_result(name)
    session.set_trace(again)
    return True


def routes_of(trace: RoutingTrace) -> RouteRegret | None:
    """Return how well the tokens of a trace are routed; None if it was not measured."""
    of, found = session.result(f"routes of {id(trace)}") or (None, None)
    if of is not trace and trace is recorded.held_out(EMBEDDED):
        return recorded.reference_routes()
    return found if of is trace else None


def offer_routes(trace: RoutingTrace, positions: int | None = None) -> None:
    """Offer to give tokens other routes of the same cost, and say what that takes; then say how far it is.

    positions  tokens of each text that are judged; default: all.
    """
    if (trace.tokens["phase"] == "generated").any():
        say("Routes are judged by the token that follows, and the model itself chose those that it generated.")
        return
    run = recent.run_of(trace)
    if (why := model_catalog.why_only_read(trace.model.name if run is None else run.model)) is not None:
        say(why)
        return
    if not trace.tokens["text"].any():
        say("Routes are judged by running the texts again, and this trace has none. Record it with its texts.")
        return
    if trace.tokens["sequence"].value_counts().max() < FEWEST_TOKENS:
        say("Routes are judged by the token that follows, and no text here has two tokens. Run a longer text.")
        return
    cost, texts = expected_cost(trace.model), trace.tokens["sequence"].nunique()
    tokens = len(trace.tokens) if positions is None else min(positions * texts, len(trace.tokens))
    how = cost.sentence(texts, expected_seconds(trace.model, tokens / texts))
    note(f"{how}; {tokens:,} tokens of {texts:,} text{'s' * (texts != 1)} are judged.")
    if cost.forwards * tokens > (most := settings.SETTINGS.max_corpus_chars):
        say(
            f"That would read {cost.forwards * tokens:,.0f} tokens, and {most:,} are read here. Take a shorter text, "
            "or moeviz routes on your own machine."
        )
        return

    def piece(number: int, pair: tuple[str, str], layer: int | None) -> Piece:
        def work(loaded: "LoadedModel", _tell: Callable[[Any], None]) -> RouteRegret | tuple[int | None, str]:
            from moeviz.analyses.routes import route_regret

            given = pair[1] if "label" not in trace.tokens else [pair]
            try:
                found = route_regret(loaded, given, layers=None if layer is None else [layer], positions=positions)
            except (CaptureError, InvalidPrompt) as why:  # of one layer, or of one short text
                return layer, str(why)
            found.cells["sequence"] = np.int32(number)
            return found

        return work

    def begin() -> Background:
        pairs = _pairs(trace)
        if len(pairs) > 1:
            return _on_model(trace, [piece(number, pair, None) for number, pair in enumerate(pairs)])
        return _on_model(trace, [piece(0, pairs[0], layer) for layer in trace.model.layers])

    def finish(parts: list) -> RouteRegret:
        judged = [part for part in parts if not isinstance(part, tuple)]
        others = [part for part in parts if isinstance(part, tuple)]
        if not judged:
            raise CaptureError(others[0][1])
        found = joined_regret(judged)
        return replace(found, left_out=found.left_out | {layer: why for layer, why in others if layer is not None})

    why = "The model reads the text again, and each token takes other experts at one layer. Stop keeps what is done."

    def keep(name: str, found: RouteRegret) -> None:
        session.keep_result(name, (trace, found))  # while it is kept, no other trace has this id

    _offer(f"routes of {id(trace)}", "Judge the routes", why, begin, finish, keep, parts_count=True)


def offer_rows(seen: ExpertInTrace) -> None:
    """Offer to load the model and look at its router."""
    why = f"Loads {escape_markdown(seen.model.name)} if it is not in memory yet."
    if not st.button("Compare the router's rows", help=why):
        return
    with explained():
        from moeviz.capture.routers.geometry import router_geometry

        model_service.begin_run()

        def work(loaded: "LoadedModel", _tell: Callable[[Any], None]) -> pd.DataFrame:
            return router_geometry(loaded.model, [seen.layer])

        found = wait_for(model_service.run_on_model(seen.model.name, _how(seen.trace), work), lambda _told: None)
        session.keep_result(_rows_name(seen), found)
        st.rerun()


def _offer(
    name: str,
    words: str,
    why: str,
    begin: Callable[[], Background],
    finish: Callable[[list], Any],
    keep: Keep = session.keep_result,
    parts_count: bool = False,
) -> None:
    running = session.result(JOB)
    if running is not None and running[0] == name:
        st.fragment(_watch, run_every=SECONDS_BETWEEN_LOOKS)(name, running[1], finish, keep, parts_count)
    elif st.button(words, help=why, key=f"begin {name}"):
        with explained():
            model_service.begin_run(dear=True)
            if running is not None:
                running[1].stop()
            session.keep_result(JOB, (name, begin()))
            st.rerun()


def _watch(name: str, job: Background, finish: Callable[[list], Any], keep: Keep, parts_count: bool) -> None:
    """Draw how far it is, and Stop; keep the result once it is there, and that of the parts done if these count."""
    with explained():
        try:
            found = job.found
        except Exception:  # of any kind: a job that failed is not asked again
            session.forget_result(JOB)
            raise
        says = f"{'What is done' if parts_count else 'Nothing'} is kept if you stop."
        if found is not None or st.button("Stop", key=f"stop {name}", help=says):
            job.stop()
            session.forget_result(JOB)
            if kept := job.parts if found is None and parts_count else found:
                keep(name, finish(kept))
            st.rerun(scope="app")
        st.progress(job.done / job.total, waiting_words(job.ahead, f"{job.done} of {job.total} parts read"))


def _muting(seen: ExpertInTrace) -> Background:
    from moeviz.analyses.muting import muted_by_label

    def piece(label: str, pairs: Pairs) -> Piece:
        def work(loaded: "LoadedModel", tell: Callable[[Any], None]) -> pd.DataFrame:
            return muted_by_label(loaded, pairs, experts=[(seen.layer, seen.expert)], progress=lambda *at: tell(at))

        return work

    pairs = _pairs(seen.trace)
    kinds = dict.fromkeys(label for label, _ in pairs)
    pieces = [piece(kind, [pair for pair in pairs if pair[0] == kind]) for kind in kinds]
    return _on_model(seen.trace, pieces)


def _muting_depends(seen: ExpertInTrace) -> str | None:
    """Return all that the loss without an expert depends on: the weights, how they are opened, and the texts."""
    model, tokens, how = seen.model, seen.trace.tokens, _how(seen.trace)
    weights = model_service.weights(model.name, how, model.revision)
    if weights is None:
        return None
    columns = [name for name in ("sequence", "position", "token_id", "label") if name in tokens]
    texts = tokens[columns].to_csv(index=False)
    return repr((HOW_MUTED, model.name, weights, how, seen.layer, seen.expert, texts))


def _on_model(trace: RoutingTrace, pieces: list[Piece]) -> Background:
    return Background(model_service.dear_runner_on_model(trace.model.name, _how(trace)), pieces)


def _pairs(trace: RoutingTrace) -> Pairs:
    """Return the trace's texts. Raises `CaptureError` if the model reads them otherwise, `InvalidPrompt` if long."""
    model_catalog.bring_torch()
    from moeviz.analyses.muting import texts_of_trace

    pairs = texts_of_trace(model_service.model(trace.model.name, _how(trace)), trace)
    most, given = settings.SETTINGS.max_corpus_chars, sum(len(text) for _, text in pairs)
    if given > most:
        raise InvalidPrompt(f"The texts of this trace have {given:,} characters, and {most:,} are allowed here.")
    return pairs


def _how(trace: RoutingTrace) -> LoadOptions:
    """Say how the model is opened: as for the run that made the trace, if there was one."""
    run = recent.run_of(trace)
    return DEFAULT_LOAD if run is None else run.how


def _name(what: str, seen: ExpertInTrace) -> str:
    return f"{what} of {seen.key}"


def _rows_name(seen: ExpertInTrace) -> str:
    return f"router rows of {seen.model.name} {_how(seen.trace)} {seen.layer}"
