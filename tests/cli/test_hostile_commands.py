"""Command lines that mean harm, or are mistaken: one sentence, soon, and before a model has run."""

import os
from errno import ENOSPC
from threading import Event

import pytest
import torch
from opened_instead import open_instead
from transformers import AutoConfig
from waiting import SECONDS

from moeviz.capture.models import load
from moeviz.capture.models import memory as room
from moeviz.capture.models.load import load_model, model_facts
from moeviz.cli.main import main
from moeviz.embedded import embedded_path
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.formats.exports import check_target, write_trace


@pytest.fixture
def here(tmp_path, monkeypatch, trace):
    """A folder to be in, with a trace and a folder that is called like one."""
    monkeypatch.chdir(tmp_path)
    write_trace(trace, "t.npz")
    (tmp_path / "folder.npz").mkdir()
    return tmp_path


UNWRITABLE = {
    "no/such/x.npz": "No such file or directory",
    "t.npz/x.npz": "Not a directory",
    "folder.npz": "Is a directory",
    "x" * 252 + ".npz": "256 characters",
    "": "does not have the suffix of a trace",
}
COMMANDS = {
    "trace": ["trace", "a", "-o"],
    "what-if": ["what-if", "a", "--mute", "3:1", "-o"],
    "corpus": ["corpus", "--embedded", "-o"],
    "history": ["history", "run", "local-experts", "-o"],
    "convert": ["convert", "t.npz"],
}


@pytest.mark.parametrize(
    ("command", "target"),
    [
        *(("convert", target) for target in UNWRITABLE),
        *((name, "no/such/x.npz") for name in COMMANDS if name != "convert"),
    ],
    ids=lambda name: name[:12] or "empty",
)
def test_a_target_that_cannot_be_written_is_found_out_before_the_run(command, target, here, monkeypatch, capsys):
    def never(*args, **more):
        pytest.fail("it ran")

    open_instead(monkeypatch, never)
    monkeypatch.setattr("moeviz.cli.history.trained", never)
    monkeypatch.setattr("moeviz.formats.exports.read_trace", never)
    before = {path: path.stat().st_mtime_ns for path in here.iterdir()}
    assert main([*COMMANDS[command], target]) == 3
    said = capsys.readouterr().err
    assert UNWRITABLE[target] in said and said.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in here.iterdir()} == before  # and nothing is left


def test_looking_whether_a_file_can_be_written_leaves_the_one_that_is_there(here):
    before = (here / "t.npz").read_bytes()
    check_target("t.npz")
    assert (here / "t.npz").read_bytes() == before and len([*here.iterdir()]) == 2


def test_a_disk_that_fills_while_the_result_is_written_is_one_sentence(here, monkeypatch, capsys):
    def full(_handle):
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr("moeviz.whole_files.os.fsync", full)
    assert main(["convert", "t.npz", "u.csv"]) == 3
    assert "No space left on device" in capsys.readouterr().err and not (here / "u.csv").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["metrics", "folder.npz"],
        ["metrics", "t.npz", "--topic", "tokens", "--token", str(2**62)],
        ["convert", "folder.npz", "x.csv"],
        ["params", "embedded", "--trace", "nope.npz"],
        ["corpus", "/dev/null" if os.name == "posix" else "nul"],
        ["what-if", "a", "--replay", "folder.npz"],
        ["trace", "a", "--device-map", "meta"],
        ["trace", "a", "--num-beams", str(10**9), "--max-new-tokens", "2"],
        ["trace", "a", "--model", "x" * 5000],
    ],
)
def test_a_hostile_command_line_is_one_sentence(words, here, capsys):
    assert main(words) in (0, 3)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("moeviz: ")] and "Traceback" not in "\n".join(said)


def test_on_the_device_meta_nothing_runs():
    with pytest.raises(CaptureError, match="'meta'"):
        load_model(device_map="meta")


class NoNetwork(Exception):
    """What a library that makes connections raises."""


@pytest.fixture
def no_network(monkeypatch):
    """Every request fails; which ones were made, and whether transformers was told to look into its cache alone."""
    requests, told = [], []

    def request(url, *, timeout):
        requests.append(timeout)
        raise NoNetwork("Name or service not known")

    def from_pretrained(source, **options):
        told.append(options)
        raise OSError("We couldn't connect to the hub, and couldn't find it in the cached files.")

    monkeypatch.setattr(load, "get_hf_file_metadata", request)
    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    return requests, told


def test_without_a_network_an_unknown_id_is_refused_after_one_short_request(no_network):
    requests, told = no_network
    for ask in (load_model, model_facts):
        with pytest.raises(ModelNotFound, match="'nobody/nothing'"):
            ask("nobody/nothing")
    assert requests == [load.SECONDS] * 2 and [options["local_files_only"] for options in told] == [True, True]


def test_what_is_on_this_machine_needs_no_request(no_network, monkeypatch, tmp_path):
    requests, _ = no_network
    assert load.reach(str(tmp_path)) == {}
    monkeypatch.setattr(load, "try_to_load_from_cache", lambda *args, **more: "/cache/config.json")
    assert load.reach("somebody/something") == {} and requests == []


def test_a_hub_that_never_ends_its_answer_is_not_waited_for(monkeypatch):
    gate = Event()
    monkeypatch.setattr(load, "SECONDS", 0.01)
    monkeypatch.setattr(load, "get_hf_file_metadata", lambda url, *, timeout: gate.wait(SECONDS))
    assert load.reach("somebody/something") == {"local_files_only": True}, "while the hub is still at it"
    gate.set()


def test_a_hub_that_answers_is_left_to_transformers(monkeypatch):
    monkeypatch.setattr(load, "get_hf_file_metadata", lambda url, *, timeout: None)
    assert load.reach("somebody/something") == {}
    assert load.reach("no such\nname") == {}  # transformers has a sentence about it


@pytest.fixture
def little_memory(monkeypatch):
    """1 MB is free, and nothing is loaded."""
    monkeypatch.setattr(room, "bytes_free", lambda device_map: 10**6)
    monkeypatch.setattr("moeviz.capture.models.load._weights", lambda *args, **more: pytest.fail("it loads"))


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(little_memory, capsys):
    with pytest.raises(CaptureError, match=r"'embedded'.*0\.1 GB.*float32.*0\.0 GB"):
        load_model()
    assert main(["trace", "a"]) == 3
    assert "`--ignore-memory` on the command line" in capsys.readouterr().err


def test_who_knows_better_loads_it_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(room, "bytes_free", lambda device_map: 10**6)
    assert load_model(check_memory=False).name == "embedded"
    assert main(["trace", "a", "--ignore-memory"]) == 0
    capsys.readouterr()


def test_a_dtype_of_fewer_bits_needs_less(monkeypatch):
    needed = []
    monkeypatch.setattr(room, "bytes_free", lambda device_map: None)
    monkeypatch.setattr(room, "bytes_needed", lambda parameters, dtype: needed.append((parameters, dtype)) or 0)
    for dtype in (torch.float32, "float16", "auto"):
        load_model(str(embedded_path()), dtype=dtype)
    assert [dtype for _, dtype in needed] == ["float32", "float16", "bfloat16"]  # as the checkpoint says
    assert (
        len({parameters for parameters, _ in needed}) == 1 and needed[0][0] == model_facts("embedded").parameters.total
    )
