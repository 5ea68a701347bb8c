"""Set an attribute for a while."""

from collections.abc import Iterator
from contextlib import contextmanager


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
