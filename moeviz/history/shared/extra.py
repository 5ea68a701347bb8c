"""The extra `history`: libraries that train two of the systems, and that no result that ships needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from moeviz.errors import MoevizError

INSTALL = '`pip install "moeviz[history]"`'
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the module has another name


@contextmanager
def history_extra() -> Iterator[None]:
    """Import scikit-learn or scipy in this block, where they are used.

    Raises `MoevizError`, which says how to install it, where the module is missing.

        >>> with history_extra():
        ...     from sklearn.svm import LinearSVC
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "a library").partition(".")[0]
        name = _DISTRIBUTIONS.get(module, module)
        raise MoevizError(f"Training this system needs {name}, which is not installed here: {INSTALL}.") from error
