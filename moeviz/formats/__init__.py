"""The file formats of a trace, one per file; `moeviz.formats.exports` reads and writes all of them."""

from typing import TYPE_CHECKING

from moeviz._lazy import lazy_package

if not TYPE_CHECKING:  # a type checker wants the import of the module
    __getattr__, __dir__, __all__ = lazy_package(__name__)
