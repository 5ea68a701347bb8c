"""A training that somebody watches, and stops."""

from collections.abc import Callable

import pytest


class Enough(Exception):
    """What who watches raises."""


def heard_until_stopped(train: Callable[..., object], calls: int = 3, **settings: object) -> list[tuple[float, str]]:
    """All that `watch` was told until it raised at so many calls; the training must end there."""
    heard = []

    def watch(done: float, says: str) -> None:
        heard.append((done, says))
        if len(heard) == calls:
            raise Enough

    with pytest.raises(Enough):
        train(**settings, watch=watch)
    return heard
