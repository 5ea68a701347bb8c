"""Packages whose modules are imported on first use, and shown by `dir` and Tab before."""

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature


class CallableModule(ModuleType):
    """A module that can be called as the function of its name: `moeviz.metrics.expert_names(trace)`."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        """Call the function."""
        return self._function()(*given, **options)

    @property
    def __signature__(self) -> "Signature":
        from inspect import signature

        return signature(self._function())

    def _function(self) -> Callable[..., Any]:
        package, _, name = self.__name__.rpartition(".")
        home = sys.modules[package]._homes.get(name, self.__name__)  # a `LazyPackage`
        found: Callable[..., Any] = getattr(import_module(home), name)
        return found


class LazyPackage(ModuleType):
    """A package that makes a module callable if it is called as a function of the package is."""

    _homes: dict[str, str]

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is ModuleType and name in self._homes:  # the import system sets each module here
            value.__class__ = CallableModule
        super().__setattr__(name, value)


def lazy_package(name: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package: its modules, and what its stub imports from them.

    A type checker finds the same names in the stub, `__init__.pyi`. If that imports modules of the package, the others
    are not public; if it imports none, or there is no stub, all are whose name begins with a letter.

    >>> import moeviz
    >>> "load" in dir(moeviz.metrics), "balance" in dir(moeviz.metrics), callable(moeviz.metrics.balance)
    (True, True, True)
    """
    package = sys.modules[name]
    folder = Path(package.__path__[0])
    imports = _imports(folder / "__init__.pyi")
    listed = {each for each, home in imports.items() if home == name}
    homes = {each: home for each, home in imports.items() if home != name}
    modules = listed or {path.stem for path in folder.glob("[a-z]*.py")} | {
        path.parent.name for path in folder.glob("[a-z]*/__init__.py")
    }
    known = sorted({*modules, *homes})
    vars(package)["_homes"] = homes
    package.__class__ = LazyPackage

    def find(wanted: str) -> Any:
        if wanted in modules:
            return import_module(f"{name}.{wanted}")
        if wanted in homes:
            from moeviz._plain_help import with_plain_help

            return with_plain_help(getattr(import_module(homes[wanted]), wanted))
        from moeviz.text import like

        meant = "" if wanted.startswith("_") else like(wanted, known)
        raise AttributeError(f"module {name!r} has no attribute {wanted!r}.{meant}")

    return find, lambda: known, sorted(homes) if listed else known


def _imports(stub: Path) -> dict[str, str]:
    """Return the names that a stub imports, each with its module; none without a stub."""
    text = stub.read_text(encoding="utf-8") if stub.exists() else ""
    lines = re.findall(r"^from (\S+) import (\([^)]*\)|.*)", text, re.MULTILINE)
    return {name: module for module, names in lines for name in re.findall(r"\w+ as (\w+)", names)}
