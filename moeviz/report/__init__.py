"""A trace for people to keep: an HTML page, a notebook view, `trace.plot`."""

from typing import TYPE_CHECKING

from moeviz._lazy import lazy_package

if not TYPE_CHECKING:  # a type checker wants the import of the module
    __getattr__, __dir__, __all__ = lazy_package(__name__)
