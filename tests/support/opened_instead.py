"""A model that is opened in place of the one that was asked for, and that nobody keeps once the test is over."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

# They hold the name themselves: one that is first imported while it is another function would keep that one for good.
HOLD_IT = ("moeviz.capture.trace", "moeviz.capture.corpus", "moeviz.corpus.run", "moeviz.corpus.on_ray")


def open_instead(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any] | None) -> None:
    """For this test, whoever looks up `moeviz.capture.opening.load_model` finds `load`."""
    for module in HOLD_IT:
        import_module(module)
    monkeypatch.setattr("moeviz.capture.opening.load_model", load)
