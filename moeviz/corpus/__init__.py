"""Corpora larger than memory: texts become a dataset on disk, and metrics are computed from it."""

from typing import TYPE_CHECKING

from moeviz._lazy import lazy_package

if not TYPE_CHECKING:  # a type checker wants the import of the module
    __getattr__, __dir__, __all__ = lazy_package(__name__)
