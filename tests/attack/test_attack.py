"""A public server under attack: in short, and with the marker `attack` the programs of this folder at length."""

import subprocess
import sys
from pathlib import Path

import pytest
from servers import served
from watched_folder import WatchedFolder

from tests.attack import attack, crowds

PROGRAMS = {
    "attack": [],
    "fuzz": ["--minutes", "5"],
    "hostile_tables": [],
    "import_damage": ["--tries", "2000"],
}


@pytest.fixture
def decoy(tmp_path):
    if sys.platform != "linux":
        pytest.skip("Linux's kernel alone says which folders were opened")
    return attack.unlisted_model(tmp_path)


def test_strangers_load_no_model_read_no_folder_frame_nothing_and_fill_no_memory(decoy, capsys):
    with served(MOEVIZ_WARM_UP="0", **attack.PUBLIC) as server:
        found = attack.attack(server.url, decoy, links=12, uploads=6)
    assert (found.loaded, found.read, found.framed, found.errors) == (0, 0, 0, [])
    assert found.more_mb < attack.MORE_MB


def test_the_same_attack_on_a_private_server_opens_the_folder(decoy, server):
    """The control: what the attack forges is what a browser would send, and the kernel tells of it."""
    with WatchedFolder(decoy) as folder:
        attack.forged_choices(attack.AttackedServer(server.url, decoy, 1, 0), attack.Found())
        assert folder.seen


def test_a_million_forged_rows_hold_nobody_up():
    found = attack.Found()
    with served(MOEVIZ_WARM_UP="0", **attack.PUBLIC) as server:
        attack.forged_rows(attack.AttackedServer(server.url, Path("nowhere"), 0, 0), found)
    assert not found.errors


@pytest.mark.attack
@pytest.mark.parametrize("name", crowds.CROWDS)
def test_beside_a_crowd_visitors_of_its_address_and_of_others_run_and_the_server_is_ready(name, monkeypatch):
    """In short: fewer cookies, for fewer places. How much slower runs are is for `python -m tests.attack.attack`."""
    for limit, value in {"ROUNDS": 1, "RUNS": 2, "COOKIES": 12}.items():
        monkeypatch.setattr(crowds, limit, value)
    few = {"MOEVIZ_RUNS_PER_ADDRESS": "10", "MOEVIZ_WARM_UP": "0"}
    with served(**crowds.SETTINGS | few) as server:
        seen, ready = crowds.beside(server, crowds.CROWDS[name])
    assert ready and [each.refused for each in seen.values()] == [[], []]
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.attack
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_attacks_finds_nothing(name, tmp_path):
    options = [*PROGRAMS[name], *(["--keep", str(tmp_path)] if name == "fuzz" else [])]
    done = subprocess.run([sys.executable, "-m", f"tests.attack.{name}", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
