"""Modules that moved can be imported by the names that they had, with a warning that says where they are."""

import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from moeviz.moved import MODULES, NAMES


@pytest.mark.parametrize("old", sorted(MODULES))
def test_a_moved_module_is_found_and_names_the_new_one(old, monkeypatch):
    monkeypatch.delitem(sys.modules, f"moeviz.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"moeviz.{MODULES[old]} now"):
        module = import_module(f"moeviz.{old}")
    now = import_module(f"moeviz.{MODULES[old]}")
    for before, name in NAMES.get(old, {}).items():
        assert getattr(module, before) is getattr(now, name)
    monkeypatch.delitem(sys.modules, f"moeviz.{old}")


def test_a_name_that_never_was_is_missed_as_usual(monkeypatch):
    with pytest.warns(DeprecationWarning):
        module = import_module("moeviz.metrics.luck")
    monkeypatch.delitem(sys.modules, "moeviz.metrics.luck")
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        _ = module.unheard_of
    assert find_spec("moeviz.metrics.nowhere") is None


def test_nothing_that_has_moved_is_still_there():
    for old, new in MODULES.items():
        spec = find_spec(f"moeviz.{new}")
        assert spec is not None and spec.origin is not None, new
        assert type(find_spec(f"moeviz.{old}").loader).__name__ == "MovedModules", old
