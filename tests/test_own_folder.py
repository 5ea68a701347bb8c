"""The folder of the machine's own user: where it is, what may read it, and that damage costs no more than time."""

import os
import stat
from pathlib import Path

import pandas as pd
import pytest

from moeviz.capture.models.folder import weights_identity
from moeviz.own_folder import _token_in, keep_table, kept_table, own_folder, own_token, token_file

TABLE = pd.DataFrame(
    {
        "layer": pd.Series([3, 3], dtype="int32"),
        "expert": pd.Series([1, 1], dtype="int16"),
        "label": pd.Series(["French", "=1+1"], dtype="str"),
        "loss_change": [0.1 + 0.2, float("nan")],
    }
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder, which is not there yet."""
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path / "deep" / "mine"))
    return tmp_path / "deep" / "mine"


@pytest.mark.parametrize(
    ("system", "environment", "place"),
    [
        ("linux", {}, "~/.local/share/moeviz"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/moeviz"),
        ("linux", {"XDG_DATA_HOME": "data"}, "~/.local/share/moeviz"),
        ("darwin", {"XDG_DATA_HOME": "/data"}, "~/Library/Application Support/moeviz"),
        ("win32", {"LOCALAPPDATA": "/c/Local"}, "/c/Local/moeviz"),
        ("win32", {}, "~/AppData/Local/moeviz"),
        ("linux", {"MOEVIZ_HOME": "/mine", "XDG_DATA_HOME": "/data"}, "/mine"),
        ("win32", {"MOEVIZ_HOME": "/mine"}, "/mine"),
    ],
)
def test_it_is_where_the_platform_keeps_such_things(system, environment, place):
    assert own_folder(environment, system) == Path(place).expanduser()


def test_what_is_kept_comes_back_with_its_types_and_for_its_owner_alone(home):
    keep_table("muted", "ab12", TABLE)
    pd.testing.assert_frame_equal(kept_table("muted", "ab12"), TABLE)
    (file,) = (home / "muted").iterdir()  # nothing unfinished is left
    for path, mode in ((home, 0o700), (home / "muted", 0o700), (file, 0o600)):
        assert os.name == "nt" or stat.S_IMODE(path.stat().st_mode) == mode


def test_the_token_of_one_s_own_app_stays_and_is_read_by_its_owner_alone(home):
    token = own_token()
    file = token_file()
    assert file.parent == home and file.read_text() == token == own_token() and len(token) >= 32
    _token_in.cache_clear()  # as in another process
    assert own_token() == token
    for spoilt in ("short", "\xe9" * 20, ""):
        _token_in.cache_clear()
        file.write_text(spoilt)
        assert own_token() not in (token, spoilt) and file.read_text() == own_token()
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        seen = own_token()
        _token_in.cache_clear()
        file.chmod(0o644)
        assert own_token() != seen and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_token_that_cannot_be_kept_holds_for_this_process(home, caplog):
    home.parent.write_text("no folder")
    assert own_token() == own_token() and "holds until this ends" in caplog.text


def test_asking_makes_no_folder(home):
    assert kept_table("muted", "ab12") is None and not home.parent.exists()


def test_a_damaged_file_is_told_and_written_anew(home, caplog):
    keep_table("muted", "ab12", TABLE)
    (file,) = (home / "muted").iterdir()
    whole = file.read_bytes()
    at = whole.index(b"French")
    for broken in (b"", whole[:-9], b"PAR1", whole[:at] + b"Hindi!" + whole[at + 6 :]):
        file.write_bytes(broken)
        caplog.clear()
        assert kept_table("muted", "ab12") is None
        assert f"{file} cannot be read, so this is computed anew" in caplog.text
    keep_table("muted", "ab12", TABLE)
    assert file.read_bytes() == whole and kept_table("muted", "ab12") is not None


def test_where_nothing_can_be_written_the_log_says_so_and_no_more_happens(home, caplog):
    home.parent.mkdir()
    home.write_text("a file is in its place")
    keep_table("muted", "ab12", TABLE)
    assert "cannot be written, so this is computed anew the next time" in caplog.text


def test_a_user_without_a_home_computes_anew_and_is_told_what_to_set(monkeypatch, caplog):
    """As in a container whose user has neither HOME nor an entry in /etc/passwd."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("MOEVIZ_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    for system in ("linux", "darwin", "win32"):
        with pytest.raises(OSError, match="MOEVIZ_HOME"):
            own_folder({}, system)
    assert kept_table("muted", "ab12") is None
    keep_table("muted", "ab12", TABLE)
    assert caplog.messages == [
        "ab12 cannot be written, so this is computed anew the next time: this user has no home folder. Set MOEVIZ_HOME "
        "to a folder"
    ]


def test_other_weights_in_the_same_folder_are_other_weights(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"1" * 100)
    first = weights_identity(str(model))
    assert first == weights_identity(str(model), "a commit")
    os.utime(model / "model.safetensors", ns=(1, 1))
    second = weights_identity(str(model))
    (model / "config.json").write_text("{}")
    assert len({first, second, weights_identity(str(model))}) == 3


@pytest.mark.parametrize("name", ["a" * 5000, "x\0y", "//host/share", "no/such"])
def test_a_name_that_is_no_folder_stands_for_its_commit_or_for_nothing_known(name):
    assert weights_identity(name) is None and weights_identity(name, "3f2a") == "3f2a"
