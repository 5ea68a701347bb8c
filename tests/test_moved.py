"""Modules under the names that they had: for one version they work, and a warning says where they are."""

import subprocess
import sys
from importlib import import_module

import pytest

from moeviz._moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_module_works_under_its_old_name_and_a_warning_names_the_new_one(old, new, monkeypatch):
    monkeypatch.delitem(sys.modules, f"moeviz.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=rf"^moeviz\.{old} is moeviz\.{new} now") as warned:
        module = import_module(f"moeviz.{old}")
    del sys.modules[module.__name__]  # another test may import it too, and is to be warned
    now = import_module(f"moeviz.{new}")
    assert len(warned) == 1 and all(getattr(module, name) is getattr(now, name) for name in dir(now) if name[0] != "_")


def test_the_warning_is_about_the_line_that_imports_it(tmp_path):
    (tmp_path / "old.py").write_text("\nfrom moeviz.in_app import open_in_app\n")
    done = subprocess.run(
        [sys.executable, "-W", "always", tmp_path / "old.py"], capture_output=True, text=True, check=True
    )
    assert f"{tmp_path / 'old.py'}:2: DeprecationWarning: moeviz.in_app is moeviz.launch now" in done.stderr


def test_a_module_that_there_never_was_is_still_not_there():
    with pytest.raises(ModuleNotFoundError):
        import_module("moeviz.one_cal")
