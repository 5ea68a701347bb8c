"""Import of the survey and the checks of the history, which a checkout has among its tests and a wheel lacks."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from moeviz.errors import MoevizError

CHECKOUT = Path(__file__).parents[2]


def from_tests(module: str, what: str, command: str) -> ModuleType:
    """Import a module of the checkout's tests, such as `survey.architectures`.

    Raises `MoevizError` without one: it says that `what` is missing, and where `command` runs.
    """
    tests, folder = CHECKOUT / "tests", module.partition(".")[0]
    if not (tests / folder).is_dir():
        raise MoevizError(
            f"{what} among moeviz's tests, which are not installed with it: there is no {folder} beside this moeviz. "
            f"Run “python -m moeviz {command}” in a checkout of the repository, or where moeviz's source distribution "
            "(its .tar.gz) is unpacked."
        )
    before = [*sys.path]
    sys.path[:0] = [str(tests), str(tests / "support")]
    try:
        return import_module(module)
    finally:
        sys.path[:] = before
