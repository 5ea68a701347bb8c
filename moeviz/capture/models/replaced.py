"""Change an object for the time of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def replaced(holder: object, attribute: str, value: object) -> Iterator[None]:
    """Set an attribute of an instance, and take it away or put the old one back."""
    missing = object()
    before = vars(holder).get(attribute, missing)
    setattr(holder, attribute, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(holder, attribute)
        else:
            setattr(holder, attribute, before)


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Inside the block nothing is drawn: no dropout, no jitter. Every part is then in the mode that it was in."""
    trained = [part for part in model.modules() if part.training]
    for part in trained:
        part.training = False
    try:
        yield
    finally:
        for part in trained:
            part.training = True
