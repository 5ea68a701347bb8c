"""The result of training a system, kept in a file: this is how the pages of the gallery open without training anything.

A result is a frozen dataclass of arrays, numbers, text and tuples of them. Each has a field `settings`: the arguments
of `train` that made it, its seed among them. These give the same result again, bit for bit, on one machine with as many
threads; elsewhere sums are rounded otherwise, and a long training goes its own way.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from moeviz.errors import MoevizError
from moeviz.whole_files import replacing

# Called again and again while a system is trained, with the share that is done, from 0 to 1, and how far it is in
# words. It may raise, and training ends.
Watch = Callable[[float, str], None]

SHIPPED = "shipped.npz"  # in the folder of its system
WITHOUT_BALANCE = "without_balance.npz"  # there too: the same, but nothing keeps its experts balanced
_REST = "everything that is not an array"
Result = TypeVar("Result")


def unwatched(done: float, says: str) -> None:
    """A `Watch` that does nothing."""


def save(result: object, path: Path) -> None:
    """Write a result to a file that `load` reads."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    rest = {name: value for name, value in values.items() if name not in arrays}
    with replacing(path) as file:
        np.savez_compressed(file, **arrays, **{_REST: np.array(json.dumps(rest))})


def load(kind: type[Result], path: Path) -> Result:
    """Read a result of this kind. Lists come back as tuples."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    rest = json.loads(str(arrays.pop(_REST)))
    rest = {name: tuple(value) if isinstance(value, list) else value for name, value in rest.items()}
    return kind(**arrays, **rest)


def shipped(kind: type[Result], name: str = SHIPPED) -> Result:
    """Return the result of this kind that ships, next to its class: with the default settings and seed 0; under
    another `name`, with other settings. `python -m benchmarks.history` makes both.
    """
    return load(kind, Path(sys.modules[kind.__module__].__file__).with_name(name))


INSTALL = '`pip install "moeviz[history]"`'
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # if the module has another name


@contextmanager
def history_extra() -> Iterator[None]:
    """Import scikit-learn or scipy in this block, where they are used. If the module is missing, raises
    `MoevizError`, which says how to install it.

        >>> with history_extra():
        ...     from sklearn.svm import LinearSVC
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "a library").partition(".")[0]
        name = _DISTRIBUTIONS.get(module, module)
        raise MoevizError(f"Training this system needs {name}, which is not installed here: {INSTALL}.") from error
