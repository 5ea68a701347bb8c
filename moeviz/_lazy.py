"""Packages whose modules are imported on first use, and shown by `dir` and Tab before."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A module that can be called as the function of its name: `moeviz.metrics.expert_names(trace)`."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        """Call the function."""
        return self._function()(*given, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def _function(self) -> Callable[..., Any]:
        package, _, name = self.__name__.rpartition(".")
        home = sys.modules[package]._homes.get(name, name)  # a `LazyPackage`
        found: Callable[..., Any] = getattr(import_module(f"{package}.{home}"), name)
        return found


class LazyPackage(ModuleType):
    """A package that makes a module callable if it is called as a function of the package is."""

    _homes: dict[str, str]

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is ModuleType and name in self._homes:  # the import system sets each module here
            value.__class__ = CallableModule
        super().__setattr__(name, value)


def lazy_package(
    name: str, functions: Mapping[str, Sequence[str]] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package: its public modules, and these functions of them.

    functions   by module, those that are names of the package too.

    >>> import moeviz
    >>> "load" in dir(moeviz.metrics), "balance" in dir(moeviz.metrics), callable(moeviz.metrics.balance)
    (True, True, True)
    """
    package = sys.modules[name]
    homes = {function: module for module, names in (functions or {}).items() for function in names}
    modules = {path.stem for folder in package.__path__ for path in Path(folder).glob("[a-z]*.py")}
    modules |= {path.parent.name for folder in package.__path__ for path in Path(folder).glob("[a-z]*/__init__.py")}
    known = {*modules, *homes, *(key for key in vars(package).get("__all__", ()))}
    vars(package)["_homes"] = homes
    package.__class__ = LazyPackage

    def find(wanted: str) -> Any:
        if wanted in modules:
            return import_module(f"{name}.{wanted}")
        if wanted in homes:
            return getattr(import_module(f"{name}.{homes[wanted]}"), wanted)
        from moeviz.text import like

        meant = "" if wanted.startswith("_") else like(wanted, sorted(known))
        raise AttributeError(f"module {name!r} has no attribute {wanted!r}.{meant}")

    return find, lambda: sorted(known), sorted(known)
