"""What the page Training carries in its address: which of the runs that ship, which beside it, which layer and part."""

from collections.abc import Mapping

from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import session, training_runs

_KEYS = {"run": session.RUN, "beside": session.OTHER_RUN}
_NAMES = {address: name for name, address in training_runs.SHIPPED.items()}
_PART, _PARTS = "part", {address: part for part, address in training_runs.PARTS.items()}


def written() -> dict[str, str]:
    """The runs on screen, where a link can bring them: one that came in a file it cannot."""
    chosen = {part: training_runs.SHIPPED.get(session.value(key)) for part, key in _KEYS.items()}
    if chosen["run"] is None:
        return {}
    layer = (
        {} if session.value(session.RUN_LAYER) is None else {session.RUN_LAYER: str(session.value(session.RUN_LAYER))}
    )
    shown = {_PART: part} if (part := training_runs.PARTS.get(session.value(session.RUN_PART))) else {}
    return {part: address for part, address in chosen.items() if address} | layer | shown


def fill_in(query: Mapping[str, str]) -> None:
    """Choose what a link asks for; what a run does not have, the page puts right."""
    if (name := _NAMES.get(query.get("run", ""))) is None:
        return
    session.set_value(session.RUN, name)
    session.set_value(session.OTHER_RUN, _NAMES.get(query.get("beside", "")))
    if (layer := number_in(query.get(session.RUN_LAYER))) is not None:
        session.set_value(session.RUN_LAYER, layer)
    session.set_value(session.RUN_PART, _PARTS.get(query.get(_PART, "")))
