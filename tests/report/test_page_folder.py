"""A trace's page as a folder: its files, what it refuses to replace, and what `moeviz convert` says of it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from moeviz.cli.main import main
from moeviz.errors import MoevizError
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.dataset.opening import read_dataset
from moeviz.formats.exports import write_trace
from moeviz.report.page_folder import INDEX, write_page
from moeviz.testing import sample_trace

FILES = {INDEX, "view.css", "view.js", "vega.js", "data.json"}


@pytest.fixture
def here(trace, tmp_path, monkeypatch):
    """An empty folder to work in, with a trace in it."""
    monkeypatch.chdir(tmp_path)
    write_trace(trace, "trace.npz")
    return tmp_path


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_nothing_runs_that_is_written_in_the_page(trace, tmp_path):
    write_page(trace, tmp_path)
    page = (tmp_path / INDEX).read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy and "unsafe" not in policy
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == ["", ""]
    assert "<style" not in page and not re.search(r"\bon\w+=|\bstyle=|://", page)
    assert {found for found in re.findall(r'(?:src|href|data" content)="([^"]*)"', page) if found != "data:,"} == (
        FILES - {INDEX}
    )


def test_it_holds_what_each_router_chose_and_of_a_long_trace_the_beginning(tmp_path):
    trace = sample_trace(tokens=300, layers=94)
    assert write_page(trace, tmp_path).endswith(" MB: the first 174 of 300 tokens, 94 layers")
    data = json.loads((tmp_path / "data.json").read_text("utf-8"))
    assert data["experts"] == trace.experts[:, :174].tolist()


def test_an_earlier_page_is_replaced_and_what_else_lies_there_stays(trace, tmp_path):
    folder = tmp_path / "new" / "page"
    write_page(sample_trace(tokens=8), folder)
    (folder / "CNAME").write_text("example.org")
    write_page(trace, folder)
    assert names(folder) == FILES | {"CNAME"}
    assert len(json.loads((folder / "data.json").read_text("utf-8"))["tokens"]) == len(trace.tokens)


def test_a_page_whose_writing_was_ended_can_be_written_again(trace, tmp_path, monkeypatch):
    monkeypatch.setattr("moeviz.report.page_folder.write_file", stop_after_the_first())
    with pytest.raises(KeyboardInterrupt):
        write_page(trace, tmp_path)
    monkeypatch.undo()
    assert names(tmp_path) == {INDEX}
    write_page(trace, tmp_path)
    assert names(tmp_path) == FILES


def stop_after_the_first():
    written = []

    def write(path, data):
        if written:
            raise KeyboardInterrupt
        written.append(path.write_bytes(data))

    return write


def test_links_in_the_folder_are_replaced_and_what_they_lead_to_stays(trace, tmp_path):
    write_page(trace, tmp_path / "page")
    (tmp_path / "mine.js").write_text("mine")
    (tmp_path / "page" / "view.js").unlink()
    (tmp_path / "page" / "view.js").symlink_to(tmp_path / "mine.js")
    write_page(trace, tmp_path / "page")
    assert (tmp_path / "mine.js").read_text() == "mine" and not (tmp_path / "page" / "view.js").is_symlink()


@pytest.mark.parametrize("name", ["notes.txt", INDEX])
def test_a_folder_with_anything_else_is_left_as_it_was(trace, tmp_path, name):
    (tmp_path / name).write_text("<!doctype html><title>mine</title>")
    with pytest.raises(MoevizError, match="files"):
        write_page(trace, tmp_path)
    assert names(tmp_path) == {name} and "mine" in (tmp_path / name).read_text()


def test_what_cannot_be_drawn_is_said_and_nothing_is_written(tmp_path):
    trace = sample_trace(tokens=300)
    late = np.where(np.arange(300)[None, :, None] < 256, -2, trace.experts)
    late = replace(trace, experts=late.astype(trace.experts.dtype), weights=None, logits=None)
    for wrong in (trace.select(tokens=slice(0, 0)), late):
        with pytest.raises(MoevizError):
            write_page(wrong, tmp_path / "page")
    assert not (tmp_path / "page").exists()


# ---- moeviz convert ----


@pytest.mark.parametrize(("made", "target"), [(False, "page/"), (True, "page"), (True, "page/")])
def test_convert_writes_a_page_and_says_its_size_and_how_to_look_at_it(here, capsys, made, target):
    if made:
        (here / "page").mkdir()
    assert main(["convert", "trace.npz", target]) == 0
    assert names(here / "page") == FILES
    said = capsys.readouterr().err
    size = sum(file.stat().st_size for file in (here / "page").iterdir())
    assert f"wrote {target}: 5 files, {size / 1e6:.1f} MB: 32 tokens, 4 layers. Put it on any web host" in said
    assert said.endswith(f"python -m http.server -d {target}\n") and said.count("\n") == 1


def test_a_dataset_s_folder_and_its_options_mean_a_dataset(here, trace, capsys):
    write_dataset(trace, "kept")
    assert main(["convert", "trace.npz", "kept/"]) == 3  # as before: go on, or give another
    assert "holds a whole dataset" in capsys.readouterr().err
    assert main(["convert", "trace.npz", "plain/", "--no-text"]) == 0
    assert not read_dataset(here / "plain").kept.text
    assert main(["convert", "trace.npz", "folder"]) == 0
    assert read_dataset(here / "folder")
    assert main(["convert", "kept", "page/"]) == 0
    assert names(here / "page") == FILES


def test_what_no_page_can_be_made_of_is_said_in_a_sentence(here, trace, capsys):
    assert main(["convert", "trace.npz", "counts.json", "--counts-only"]) == 0
    (here / "file").write_text("")
    for source, target, sentence in (
        ("counts.json", "page/", "holds counts of how many tokens"),
        ("none.npz", "page/", "none.npz"),
        ("trace.npz", ".", "'.' holds other files"),
        ("trace.npz", "file/", "cannot be written: Not a directory"),
        ("trace.npz", "a\0b/", "has a NUL character in it"),
    ):
        capsys.readouterr()
        assert main(["convert", source, target]) == 3
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    assert not (here / "page").exists()
