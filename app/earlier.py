"""Traces of earlier visits among the recent ones, and what became of those that are no longer there."""

from moeviz_app import state
from moeviz_app.asked import Run, asked_run
from moeviz_app.show import say
from moeviz_app.traces import durable, recent

SEEN = "kept traces that were looked at"


def bring_back() -> None:
    """Let the recent traces go on with those of earlier visits, and say which are gone."""
    seen: set[str] = state.value(SEEN) or set()
    for kept in durable.earlier(seen):
        recent.bring(kept.trace, kept.title, _run(kept.run))
    state.set_value(SEEN, seen)
    for sentence in durable.troubles():
        say(sentence)
    if gone := recent.dropped():
        names = ", ".join(f"“{name}”" for name in gone)
        say(f"Memory was needed, so the oldest traces were let go: {names}. Run or open them again to see them.")


def _run(parameters: dict[str, str]) -> Run | None:
    """The run that made a trace, where this deployment still allows it as it was."""
    if "prompt" not in parameters:
        return None
    run = asked_run(parameters)
    return run if run.parameters() == parameters else None
