"""What the page of counts carries in its address: which of those that ship, which part of them, and which layer."""

from collections.abc import Mapping

from moeviz_app.jobs.run_request import number_in
from moeviz_app.session import opened_counts, session

from moeviz.published import MODELS

ADDRESSES = {opened_counts.published(model): model.lower() for model in MODELS}
_NUMBERS = (session.GROUP, session.COUNTED_LAYER)


def written() -> dict[str, str]:
    """The counts on screen, where a link can bring them: those that came in a file it cannot."""
    model = ADDRESSES.get(session.value(session.COUNTS))
    if model is None:
        return {}
    return {"counts": model} | {key: str(session.value(key)) for key in _NUMBERS if session.value(key) is not None}


def fill_in(query: Mapping[str, str]) -> None:
    """Choose what a link asks for; what the counts do not have, the page puts right."""
    name = next((name for name, model in ADDRESSES.items() if model == query.get("counts")), None)
    if name is None:
        return
    session.set_value(session.COUNTS, name)
    for key in _NUMBERS:
        if (number := number_in(query.get(key))) is not None:
            session.set_value(key, number)
