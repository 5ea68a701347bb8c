"""What the page of counts carries in its address: which of those that ship, which part of them, and which layer."""

from collections.abc import Mapping

from moeviz_app import counted, state
from moeviz_app.asked import number_in

from moeviz.published import MODELS

ADDRESSES = {counted.published(model): model.lower() for model in MODELS}
_NUMBERS = (state.GROUP, state.COUNTED_LAYER)


def written() -> dict[str, str]:
    """The counts on screen, where a link can bring them: those that came in a file it cannot."""
    model = ADDRESSES.get(state.value(state.COUNTS))
    if model is None:
        return {}
    return {"counts": model} | {key: str(state.value(key)) for key in _NUMBERS if state.value(key) is not None}


def fill_in(query: Mapping[str, str]) -> None:
    """Choose what a link asks for; what the counts do not have, the page puts right."""
    name = next((name for name, model in ADDRESSES.items() if model == query.get("counts")), None)
    if name is None:
        return
    state.set_value(state.COUNTS, name)
    for key in _NUMBERS:
        if (number := number_in(query.get(key))) is not None:
            state.set_value(key, number)
