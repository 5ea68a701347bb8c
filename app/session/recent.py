"""A visitor's last traces: by name, by the run that made them, and by the address that repeats them."""

from collections.abc import Hashable
from typing import Any

from moeviz_app.jobs.run_request import RunRequest, run_from_query
from moeviz_app.session import durable, library
from moeviz_app.session.visit import visit

from moeviz.errors import CaptureError
from moeviz.metrics.tokens import visible, whole_characters
from moeviz.routing_trace import RoutingTrace

RECENT_TRACES = 8
TITLE = 40  # characters


def traces() -> dict[str, RoutingTrace]:
    """The visitor's last traces by name, the newest first."""
    return visit().recent.newest_first()


def remember(trace: RoutingTrace, run: Any = None, title: str | None = None) -> None:
    """Keep a trace among the last ones, under a name, with the run that made it; for later visits too, where it may."""
    name = next((name for name, other in traces().items() if other is trace), None)
    known, name = name is not None, name or free_name(_short(title) if title else title_of(trace))
    visit().recent.put(name, trace, RECENT_TRACES)
    if run is not None:
        _made_by(trace, run)
    if not known:
        durable.keep(trace, name, run_of(trace))


def bring(trace: RoutingTrace, title: str, run: Any) -> bool:
    """Keep a trace of an earlier visit as the oldest, if there is a place for it and it is not there yet."""
    if any(trace.equals(other) for other in traces().values()):
        return False
    brought = visit().recent.put_last(free_name(title), trace, RECENT_TRACES)
    if brought and run is not None:
        _made_by(trace, run)
    return brought


def restore() -> list[str]:
    """Let the recent traces go on with those of earlier visits; sentences on what cannot be kept, or was let go."""
    for kept in durable.earlier(visit().kept_seen):
        bring(kept.trace, kept.title, _run_of_kept(kept.run))
    sentences = durable.troubles()
    if gone := dropped():
        names = ", ".join(f"“{name}”" for name in gone)
        why = f"Memory was needed, so the oldest traces were let go: {names}. Run or open them again to see them."
        sentences.append(why)
    return sentences


def _run_of_kept(query: dict[str, str]) -> RunRequest | None:
    """The run that made a kept trace, where this deployment still allows it as it was."""
    if "prompt" not in query:
        return None
    try:
        run = run_from_query(query)
    except CaptureError:  # no run of ours: a file holds what anyone wrote
        return None
    return run if run.parameters() == query else None


def dropped() -> list[str]:
    """Names of traces that were taken away since this was asked last, because memory was needed."""
    return visit().recent.take_dropped()


def free_name(title: str) -> str:
    """Return a title, with a number behind it where a recent trace is called so already."""
    return library.free_name(title, traces())


def _made_by(trace: RoutingTrace, run: Any) -> None:
    kept = {id(other) for other in traces().values()} - {id(trace)}
    runs = visit().recent.runs
    runs[:] = [*(pair for pair in runs if id(pair[0]) in kept), (trace, run)]


def title_of(trace: RoutingTrace) -> str:
    """A name for a trace: the beginning of its text or, for a system of the gallery, the system's own name."""
    texts = trace.tokens["text"].head(4 * TITLE)  # a character may be split over as many tokens
    words = "".join(whole_characters([text for text in texts if not text.startswith("<")]))
    return _short(trace.model.name if trace.model.backend == "mixture" else words)


def _short(title: str) -> str:
    text = visible(" ".join(title[: TITLE * TITLE].split()))
    return text if len(text) <= TITLE else f"{text[:TITLE]}…"


def rename(old: str, new: str) -> None:
    """Give one of the recent traces another name; a name that another one has changes nothing."""
    named, new = traces(), new.strip()
    if new and new not in named and old in named:
        visit().recent.rename(old, new)
        durable.keep(named[old], new, run_of(named[old]))


def run_of(trace: RoutingTrace | None) -> Any:
    """Return the run that made a trace; None for one that came in a file."""
    return next((run for made, run in visit().recent.runs if made is trace), None)


def trace_of(run: Hashable) -> RoutingTrace | None:
    """A recent trace that was made by such a run."""
    return next((trace for trace, made_by in reversed(visit().recent.runs) if made_by == run), None)
