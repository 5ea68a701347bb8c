"""What the page Training carries in its address: which of the runs that ship, which beside it, which layer and part."""

from collections.abc import Mapping

from moeviz_app import runs, state
from moeviz_app.asked import number_in

_KEYS = {"run": state.RUN, "beside": state.OTHER_RUN}
_NAMES = {address: name for name, address in runs.SHIPPED.items()}
_PART, _PARTS = "part", {address: part for part, address in runs.PARTS.items()}


def written() -> dict[str, str]:
    """The runs on screen, where a link can bring them: one that came in a file it cannot."""
    chosen = {part: runs.SHIPPED.get(state.value(key)) for part, key in _KEYS.items()}
    if chosen["run"] is None:
        return {}
    layer = {} if state.value(state.RUN_LAYER) is None else {state.RUN_LAYER: str(state.value(state.RUN_LAYER))}
    shown = {_PART: part} if (part := runs.PARTS.get(state.value(state.RUN_PART))) else {}
    return {part: address for part, address in chosen.items() if address} | layer | shown


def fill_in(query: Mapping[str, str]) -> None:
    """Choose what a link asks for; what a run does not have, the page puts right."""
    if (name := _NAMES.get(query.get("run", ""))) is None:
        return
    state.set_value(state.RUN, name)
    state.set_value(state.OTHER_RUN, _NAMES.get(query.get("beside", "")))
    if (layer := number_in(query.get(state.RUN_LAYER))) is not None:
        state.set_value(state.RUN_LAYER, layer)
    state.set_value(state.RUN_PART, _PARTS.get(query.get(_PART, "")))
