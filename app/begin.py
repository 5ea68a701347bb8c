"""The first script of a visit: what the server was started with."""

from moeviz_app import counted, datasets, pairs, runs, state
from moeviz_app.traces import opened, recorded

from moeviz.expert_counts import ExpertCounts
from moeviz.routing_trace import RoutingTrace

_BEGUN = "begun"


def begin() -> str | None:
    """Open these files, the first of them on screen; the page to begin on, where there is no trace among them.

    Raises what `recorded.opened_files` raises, once.
    """
    if state.value(_BEGUN):
        return None
    state.set_value(_BEGUN, True)  # also where it raises: it is told once
    files = [(name, opened.noted(file).counted) for name, file in recorded.opened_files()]
    traces = [file for _, file in files if isinstance(file, RoutingTrace)]
    for name, found in reversed(files):
        if isinstance(found, ExpertCounts):
            counted.remember(found)
        else:
            state.set_trace(found, title=name)
    if len(traces) > 1:
        pairs.choose(traces[0], traces[1])
    of_corpora = datasets.listed()
    if of_corpora and not traces:
        state.set_value(state.DATASET, next(iter(of_corpora)))
    if traces:
        return None
    return "Training" if runs.started() else "Corpus" if of_corpora else "Counts" if files else None
