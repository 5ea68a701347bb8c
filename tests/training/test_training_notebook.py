"""The notebook that trains a tiny MoE twice: it runs, says which of the two collapsed, and draws both."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from benchmarks.training_pair import collapse
from moeviz.training import read_run

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "training.ipynb"
CHARTS = ("loss", "balance", "effective", "aux", "experts", "even")


def outputs(notebook):
    """What each code cell gave back, by the id of the cell."""
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def test_the_notebook_trains_twice_and_draws_a_collapse_that_was_said(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(outputs(notebook).values())  # the file holds none
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown, runs = outputs(notebook), {name: read_run(tmp_path / name) for name in ("aux-on", "aux-off")}
    assert collapse(runs["aux-on"]) == {} and not runs["aux-on"].alarms["on"].any()
    assert collapse(runs["aux-off"]) and {"aux_off", "collapse"} <= set(runs["aux-off"].alarms.query("on")["kind"])
    (table,) = shown["said"]
    for sentence in runs["aux-off"].alarms["says"]:
        assert sentence in table.data["text/html"]
    for name in CHARTS:
        (chart,) = shown[name]
        assert "vega" in chart.data["text/html"]
    said = [line for cell in ("train", "train-off") for output in shown[cell] for line in output.text.splitlines()]
    assert any("of the work; no aux loss is computed" in line for line in said)
    assert "language" in shown["language"][0].data["text/html"]
