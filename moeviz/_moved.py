"""Modules that have another name now: the old one works for one version, with a warning that names the new one."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Old and new, both without "moeviz.".
MOVED = {
    "formats.short_floats": "formats.table_cells",
    "in_app": "launch",
    "names": "text",
    "one_call": "quick_view",
    "samples": "testing",
}


class MovedModules(MetaPathFinder, Loader):
    """Import a module under its old name: a module with the names of the new one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old name; None for any other."""
        return ModuleSpec(name, self) if name.removeprefix("moeviz.") in MOVED and name.startswith("moeviz.") else None

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and give the module what the new one has."""
        new = "moeviz." + MOVED[module.__name__.removeprefix("moeviz.")]
        warnings.warn(
            f"{module.__name__} is {new} now, and its old name goes with the next version. Import it from there.",
            DeprecationWarning,
            stacklevel=2,
        )
        module.__dict__.update({name: value for name, value in vars(import_module(new)).items() if name[:2] != "__"})


sys.meta_path.append(MovedModules())
