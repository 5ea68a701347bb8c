"""The tokens on screen, read again: without some experts, with other words in turn, or in parts."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from moeviz.charts.effect import DIRECT
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs import reread
from moeviz_app.jobs.background import Background
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import session
from moeviz_app.session.visit import visit
from moeviz_app.widgets.chart_panel import altair_chart, alternative, heading, menu
from moeviz_app.widgets.components.explorer import Muted
from moeviz_app.widgets.messages import explained, refuse, say
from moeviz_app.widgets.run_panel import waiting_words

OCCLUSION = "which word decided"  # a visitor's own job
BETWEEN_LOOKS = 0.5  # seconds
MOST_PAIRS = 2_000_000  # of tokens, over all layers, that one message brings to a browser: 8 MB of them


def wanted_of(run: RunRequest) -> RunRequest:
    """Return the run on screen with the experts that the visitor has muted in it."""
    wanted, _ = visit().muted or (run, 0)
    return wanted if replace(wanted, mute=()) == run else run


def muted_here(trace: RoutingTrace, run: RunRequest, tell: Callable[[str], None]) -> Muted:
    """Return the experts that the visitor has muted in the run on screen, and its tokens read again without them.

    `tell` gets the reason if they cannot be muted; then none are.
    """
    wanted, (_, asked) = wanted_of(run), visit().muted or (run, 0)
    if not wanted.mute:
        return Muted(asked=asked)
    with explained(tell):
        return Muted(wanted.mute, reread.muted(trace, run, wanted.mute), asked)
    visit().muted = (run, asked)
    return Muted(asked=asked)


def decided_here(trace: RoutingTrace, run: RunRequest) -> tuple[dict[str, Any] | None, bool]:
    """Return which words decided, as data for the browser, None if not known yet; and whether one can ask for it."""
    if len(trace.model.layers) * len(trace.tokens) ** 2 > MOST_PAIRS:
        return None, False
    found = reread.occlusion_of(trace, run)
    return None if found is None else reread.compact(found), not isinstance(_job_of(trace), str)


def offer_occlusion(trace: RoutingTrace, run: RunRequest, is_asked: bool) -> None:
    """Start to find which words decided, if the visitor asks for it, and show the progress."""
    job = _job_of(trace)
    if job is None and is_asked and reread.occlusion_of(trace, run) is None:
        with explained(partial(_keep, trace)):
            _keep(trace, reread.begin_occlusion(trace, run))
        st.rerun(scope="fragment")
    if isinstance(job, str):
        refuse(job)
    elif job is not None:
        with st.container(key="reading again"):  # views/layout.py lets it float, so that nothing moves
            st.fragment(_watch, run_every=BETWEEN_LOOKS)(trace, job)


def is_direct(trace: RoutingTrace) -> bool:
    """Return whether the parts of the choices for the selected token are on screen."""
    return visit().direct == (trace, session.selected_token())


def show_direct(trace: RoutingTrace, run: RunRequest) -> None:
    """Draw what each part of the model wrote of the choice at the chosen layer, where that is asked for."""
    if not is_direct(trace):
        return
    if wanted_of(run).mute:
        say("Bring the muted experts back to see the direct parts: they are of the model as it is.")
        return
    found = None
    with explained(_refuse_direct), st.spinner("The model reads the text again …"):
        found = reread.attributed(trace, run, session.selected_token())
    if found is None:
        return
    chart = DIRECT.of(trace.model)
    with st.container(key="direct parts"), explained():
        parts = chart.measure(found, *session.chosen_layers("one"))
        heading(chart)
        st.text(chart.caption(parts))
        altair_chart(chart.picture(parts), key=chart.key, alt=alternative(chart))
        menu(chart, parts, reading=True)


def _refuse_direct(why: str) -> None:
    """Explain why there are no parts, once: another press asks again."""
    visit().direct = None
    refuse(why)


def _job_of(trace: RoutingTrace) -> Background | str | None:
    """Return the running job of this trace, or the sentence that explains why it failed."""
    of, job = session.result(OCCLUSION) or (None, None)
    return job if of is trace else None


def _keep(trace: RoutingTrace, job: Background | str | None) -> None:
    session.keep_result(OCCLUSION, (trace, job))


def _watch(trace: RoutingTrace, job: Background) -> None:
    done, of = job.news or (0, reread.occlusion_forwards(trace))
    st.progress(
        done / of, waiting_words(job.ahead, f"The text is read with other words in it: {done:,} of {of:,} times")
    )
    is_stopped = st.button("Stop", key="stop occlusion")
    if is_stopped:
        job.stop()
    with explained(partial(_keep, trace)):
        if not is_stopped and job.found is None:
            return
        _keep(trace, None)
    st.rerun()
