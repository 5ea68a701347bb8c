"""All charts of a trace in one zip: what is in it, what is left out and why, and that no name or cell does harm."""

import csv
import io
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree
from zipfile import ZipFile

import pytest
from labels import labelled

import moeviz
from moeviz.charts import NAMED, REPORTED
from moeviz.cli.main import main
from moeviz.embedded.recorded_routing import example_trace
from moeviz.errors import InvalidTrace
from moeviz.report import all_charts
from moeviz.report.all_charts import charts_zip
from moeviz.report.plots import choices, part_of
from moeviz.spreadsheets import table_as_csv
from moeviz.testing import sample_trace

HOSTILE = ("=1+1", "../../x", "<script>", "a/b", "\u202egnp.exe", "+2", "\x1b[2J", "'s")


@cache
def unpacked() -> dict[str, bytes]:
    """The zip of the example."""
    return files_of(charts_zip(example_trace()))


def files_of(data: bytes) -> dict[str, bytes]:
    file = ZipFile(io.BytesIO(data))
    assert file.testzip() is None
    return {name: file.read(name) for name in file.namelist()}


def test_each_chart_is_there_as_picture_and_table_or_named_with_the_reason():
    files, readme = unpacked(), unpacked()["README.txt"].decode()
    here, _, left_out = readme.partition("Charts left out, and why")
    for topic, charts in REPORTED.items():
        for chart in charts:
            name = f"{topic.lower()}/{chart.key}"
            there = f"{name}.csv" in files
            assert (f"{name}.svg" in files) == there
            assert (f"  {name}\n" in here) == there and (f"  {name}\n" in left_out) != there
    assert "Load by label needs tokens with a label, and this trace has none." in " ".join(left_out.split())
    assert len(files) > 50


def test_tables_are_what_the_charts_draw_and_pictures_are_svg():
    trace, files = example_trace(), unpacked()
    chosen = choices(trace, None, None, len(trace.tokens) - 1)
    for name in ("load/load_bars", "layers/layer_overlap", "tokens/token_route"):
        chart = NAMED[name.partition("/")[2]]
        assert files[f"{name}.csv"] == table_as_csv(chart.measure(part_of(trace, chart, chosen)))
        assert ElementTree.fromstring(files[f"{name}.svg"]).tag.endswith("svg")


def test_the_readme_says_which_layer_a_chart_is_about(no_pictures, trace):
    said = " ".join(files_of(charts_zip(trace))["README.txt"].decode().split())
    other = " ".join(files_of(charts_zip(trace, layer=1, token=3))["README.txt"].decode().split())
    assert "divided among its experts? Layer 2. " in said and "through the model? Token 31. " in said
    assert "divided among its experts? Layer 1. " in other and "through the model? Token 3. " in other
    with pytest.raises(InvalidTrace, match="layer 9"):
        charts_zip(trace, layer=9)


def test_without_what_draws_pictures_the_tables_are_there_and_the_readme_says_so(monkeypatch, trace):
    with_pictures = unpacked()["README.txt"].decode()
    monkeypatch.setattr(all_charts, "installed", lambda: False)
    files = files_of(charts_zip(trace))
    assert {name.rpartition(".")[2] for name in files} == {"csv", "txt"}
    said = "The pictures are left out, since what draws them is not installed"
    assert said in files["README.txt"].decode() and said not in with_pictures


@pytest.fixture
def no_pictures(monkeypatch):
    """Tables alone, which take no time."""
    monkeypatch.setattr(all_charts, "installed", lambda: False)


def test_names_of_files_are_ours_and_no_cell_is_a_formula_whatever_is_in_the_trace(no_pictures, trace):
    texts = [HOSTILE[at % len(HOSTILE)] for at in range(len(trace.tokens))]
    mean = replace(trace, tokens=trace.tokens.assign(text=texts), model=replace(trace.model, name="../=1\x1b[2J"))
    files = files_of(charts_zip(labelled(mean, HOSTILE)))
    ours = {f"{topic.lower()}/{chart.key}.csv" for topic, charts in REPORTED.items() for chart in charts}
    assert files.keys() <= {*ours, "README.txt"} and "specialization/label_load_heatmap.csv" in files
    tables = {name: list(csv.reader(io.StringIO(data.decode()))) for name, data in files.items() if name in ours}
    texts = [cell for rows in tables.values() for row in rows for cell in row if not is_number(cell)]
    assert any(cell.startswith("'=1+1") for cell in texts)  # they are in it
    assert not [cell for cell in texts if cell.strip().startswith(("=", "+", "-", "@"))]
    assert "\x1b" not in files["README.txt"].decode()


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "trace",
    [sample_trace(tokens=0), sample_trace(tokens=1), sample_trace(layers=1), sample_trace(top_k=1)],
    ids=["no tokens", "one token", "one layer", "top-1"],
)
def test_any_trace_has_its_zip(no_pictures, trace):
    files = files_of(charts_zip(trace))
    assert ("nothing to draw" in files["README.txt"].decode()) == trace.tokens.empty == (len(files) == 1)


def test_the_same_trace_gives_the_same_bytes_and_another_gives_others(no_pictures, trace):
    assert charts_zip(trace) == charts_zip(trace) != charts_zip(sample_trace(seed=1))


def test_the_command_line_writes_it_and_refuses_to_read_it(no_pictures, trace, tmp_path, capsys):
    moeviz.write_trace(trace, tmp_path / "t.npz")
    assert main(["convert", str(tmp_path / "t.npz"), str(tmp_path / "t.zip")]) == 0
    assert (tmp_path / "t.zip").read_bytes() == charts_zip(trace)
    assert main(["convert", str(tmp_path / "t.zip"), str(tmp_path / "u.npz")]) == 3
    assert "'t.zip' is for people to look at and cannot be read back." in capsys.readouterr().err
