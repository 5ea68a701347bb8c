"""Modules that moved can be imported by the names that they had, with a warning that says where they are."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import moeviz
from moeviz.moved import MODULES, NAMES


@pytest.fixture
def imported_by():
    """Import a module by the name that it had; it is forgotten before and afterwards, so that each import warns."""
    asked = []

    def imported(old: str):
        asked.append(f"moeviz.{old}")
        sys.modules.pop(asked[-1], None)
        with pytest.warns(DeprecationWarning, match=f"moeviz.{MODULES[old]} now"):
            return import_module(asked[-1])

    yield imported
    for name in asked:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("old", sorted(MODULES))
def test_a_moved_module_is_found_and_names_the_new_one(old, imported_by):
    module, now = imported_by(old), import_module(f"moeviz.{MODULES[old]}")
    for before, name in NAMES.get(old, {}).items():
        assert getattr(module, before) is getattr(now, name)


def test_a_name_that_never_was_is_missed_as_usual(imported_by):
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        _ = imported_by("metrics.luck").unheard_of
    assert find_spec("moeviz.metrics.nowhere") is None


def test_nothing_that_has_moved_is_still_there():
    for old, new in MODULES.items():
        spec = find_spec(f"moeviz.{new}")
        assert spec is not None and spec.origin is not None, new
        place = Path(moeviz.__file__).parent / old.replace(".", "/")
        assert not place.with_suffix(".py").exists() and not (place / "__init__.py").exists(), old


def test_the_warning_is_about_the_line_that_imports_it(tmp_path):
    (tmp_path / "old.py").write_text("\nfrom moeviz.in_app import open_in_app\n")
    done = subprocess.run(
        [sys.executable, "-W", "always", tmp_path / "old.py"], capture_output=True, text=True, check=True
    )
    assert f"{tmp_path / 'old.py'}:2: DeprecationWarning: moeviz.in_app is moeviz.launch now" in done.stderr
