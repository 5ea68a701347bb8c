"""A stranger's file in a process of its own: its limits, what becomes of a child that ends, and what it may know."""

import io
import json
import os
import resource
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from importer_files import FOLDER
from npz_files import lists_json

from moeviz.errors import InvalidTrace, MoevizError, NotSaid
from moeviz.formats import sandboxed_read
from moeviz.formats.exports import EXPORTS, open_bytes
from moeviz.formats.importers.importer import ImportOptions, Opened
from moeviz.formats.sandboxed_read import Limits, read_sandboxed
from moeviz_app import settings
from moeviz_app.server import metrics
from moeviz_app.session import opened

READABLE = [export for export in EXPORTS if export.read]
GENEROUS = Limits(2**26, 60)
BOTH = ((open_bytes, GENEROUS.max_bytes), (read_sandboxed, GENEROUS))


@pytest.fixture
def child_that(monkeypatch, tmp_path):
    """Let the child be a shell script in place of Python."""

    def be(script: str) -> None:
        path = tmp_path / "child"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sandboxed_read.sys, "executable", str(path))

    return be


@pytest.mark.parametrize("export", READABLE, ids=lambda export: export.suffix)
def test_a_trace_comes_back_bit_by_bit(export, trace):
    data = export.write(trace)
    assert read_sandboxed(data, f"my file{export.suffix}", GENEROUS).counted.equals(export.read(data))


def test_a_refusal_of_the_reader_is_the_same_sentence():
    for data, name in ((b"position,layer\n0,1\n", "x.csv"), (b"PK", "x.npz"), (b"", "x.txt"), (b"", "a\0b.npz")):
        with pytest.raises(InvalidTrace) as here:
            open_bytes(data, name)
        with pytest.raises(InvalidTrace) as there:
            read_sandboxed(data, name, GENEROUS)
        assert str(there.value) == str(here.value)


def test_counts_come_back_with_what_was_told_and_what_the_doctor_says():
    data = (FOLDER / "imatrix.gguf").read_bytes()
    with pytest.raises(NotSaid, match="experts") as asked:
        read_sandboxed(data, "imatrix.gguf", GENEROUS)
    assert asked.value.names == ("top_k",)
    here, there = (read(data, "imatrix.gguf", of, ImportOptions(top_k=2)) for read, of in BOTH)
    assert there.counted.equals(here.counted) and there[1:] == here[1:] == ("llama.cpp importance matrices", (), ())


def test_layers_and_findings_come_back():
    options = ImportOptions(moe_layers=(1, 2))
    data = (FOLDER / "lmdeploy_generate.json").read_bytes()
    with pytest.raises(NotSaid) as asked:
        read_sandboxed(data, "a.json", GENEROUS)
    assert asked.value.names == ("moe_layers",)
    assert read_sandboxed(data, "a.json", GENEROUS, options).counted.model.layers == (1, 2)
    twice = b"layer,expert,count\n" + b"".join(b"%d,%d,%d\n" % (at, e, 5 + e) for at in (1, 2) for e in range(4))
    opened = read_sandboxed(twice, "a.csv", GENEROUS, ImportOptions(top_k=1))
    assert "one is a copy of the other" in opened.findings[0]


def test_a_file_that_takes_too_long_says_so(child_that):
    child_that("exec sleep 60")
    with pytest.raises(InvalidTrace, match=r"'x\.json'.*0 seconds"):
        read_sandboxed(b"{}", "folder/x.json", Limits(2**20, 0.05))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep this limit")
def test_a_file_that_takes_more_memory_than_its_child_may_have_says_so(monkeypatch, trace):
    monkeypatch.setattr(sandboxed_read, "OF_ITS_OWN", 2**20)  # less than it has already: nothing further can be made
    with pytest.raises(InvalidTrace, match=r"'x\.json'"):
        read_sandboxed(lists_json(trace) + b" " * 2**24, "x.json", Limits(2**25, 60))
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY  # here


def test_a_child_that_is_killed_is_one_sentence(child_that, caplog):
    child_that("kill -9 $$")
    with pytest.raises(InvalidTrace, match="-9"):
        read_sandboxed(b"{}" * 10**6, "x.json", GENEROUS)
    assert "ended with code -9" in caplog.text


def test_what_a_child_answers_is_checked_again(child_that):
    for said in ("no trace at all", "[]", '{"kind": "trace", "label": "", "findings": [7]}'):
        child_that(f"cat >/dev/null; echo '{said}'")
        with pytest.raises(InvalidTrace, match=r"'x\.json'"):
            read_sandboxed(b"{}", "x.json", GENEROUS)
    told = '{"kind": "KIND", "label": "", "findings": []}'
    for kind, match in (("trace", r"not a \.npz trace file"), ("counts", "not a whole file of")):
        child_that(f"cat >/dev/null; echo '{told.replace('KIND', kind)}'; echo no trace at all")
        with pytest.raises(InvalidTrace, match=match):
            read_sandboxed(b"{}", "x.json", GENEROUS)
    child_that("cat >/dev/null; head -c 9000000 /dev/zero")
    with pytest.raises(InvalidTrace, match="9,000,000"):
        read_sandboxed(b"{}", "x.json", Limits(2**20, 60))


def test_a_child_knows_no_secrets(child_that, monkeypatch):
    for name in ("HF_TOKEN", "MOEVIZ_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a-secret")
    child_that("cat >/dev/null; env; exit 3")
    with pytest.raises(InvalidTrace) as told:
        read_sandboxed(b"{}", "x.json", GENEROUS)
    assert "PYTHONPATH=" in str(told.value) and "a-secret" not in str(told.value)


def test_a_child_has_none_of_the_server_s_open_files(child_that, tmp_path):
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        child_that(f"cat >/dev/null; test -e /proc/self/fd/{held.fileno()} && echo it has; exit 3")
        with pytest.raises(InvalidTrace) as told:
            read_sandboxed(b"{}", "x.json", GENEROUS)
    assert str(told.value) == ""


def test_where_no_process_can_be_started_it_is_said(monkeypatch):
    monkeypatch.setattr(sandboxed_read.sys, "executable", "/no/such/python")
    with pytest.raises(MoevizError, match=r"'x\.json'"):
        read_sandboxed(b"{}", "x.json", GENEROUS)


def test_a_bug_in_a_reader_is_logged_by_its_place_without_what_the_file_says(monkeypatch, capsysbinary, caplog):
    def stumble(*args):
        raise TypeError("secret words of the file")

    asked = json.dumps({"name": "x.csv", "max_bytes": 9}).encode() + b"\ndata"
    monkeypatch.setattr(sandboxed_read, "open_bytes", stumble)
    monkeypatch.setattr(sandboxed_read, "_limit", lambda asked: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(asked)))
    code, said = sandboxed_read.main(), capsysbinary.readouterr().out
    assert code == sandboxed_read.BUG and said.startswith(b"TypeError in test_sandboxed_read.py:")
    why = sandboxed_read._error_of(code, said, "'x.csv'")
    assert "moeviz stumbled over it" in str(why) and "because of a bug: TypeError in" in caplog.text
    assert "secret words" not in caplog.text + str(why)


def test_the_child_is_light():
    code = "import sys, moeviz.formats.sandboxed_read"
    code += "; print({'torch', 'streamlit', 'transformers', 'altair'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.fixture
def limits(monkeypatch):
    """Change what the deployment sets."""
    return lambda **more: monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, **more))


def counted(end: str) -> str:
    return next((line for line in metrics.text().splitlines() if f'files_total{{end="{end}"}}' in line), "")


def test_uploads_are_read_elsewhere_within_what_is_set(limits, trace, monkeypatch):
    seen = []
    monkeypatch.setattr(
        opened, "read_sandboxed", lambda data, name, limits, options: seen.append(limits) or Opened(trace)
    )
    limits(max_unpacked_mb=7, seconds_to_read=3)
    before = counted("opened")
    assert opened.read_upload(b"x", "x.npz").counted is trace
    assert seen == [Limits(7_000_000, 3)] and counted("opened") != before
    limits(max_upload_mb=1)
    with pytest.raises(InvalidTrace, match=r"1,048,577 bytes.*1,048,576"):
        opened.read_upload(b"x" * (2**20 + 1), "x.npz")
    assert len(seen) == 1 and counted("refused")


def test_only_so_many_files_are_read_at_once(limits, monkeypatch):
    monkeypatch.setattr(opened, "_places", threading.BoundedSemaphore(1))
    monkeypatch.setattr(opened, "read_sandboxed", lambda *args: pytest.fail("it has no place"))
    limits(seconds_to_read=0)
    with opened._places, pytest.raises(MoevizError, match=r"'x\.npz'"):
        opened.read_upload(b"x", "x.npz")


def test_the_place_is_free_again_after_a_file_that_was_refused():
    for _ in range(opened.AT_ONCE + 1):
        with pytest.raises(InvalidTrace):
            opened.read_upload(b"", "x.txt")
