"""Recordings of training runs that are made up, and the charts of them."""

import json
from pathlib import Path

from moeviz.charts import training as charts
from moeviz.charts import training as figures
from moeviz.training.reading import read_run_file
from moeviz.training.recorded.run import TrainingRun
from moeviz.training.routing_file import FORMAT

ONE_RUN = (charts.HEATMAP, charts.HEALTH, charts.IMPORTANCE, figures.GRADIENTS)
TWO_RUNS = (charts.BALANCE, charts.EFFECTIVE, figures.LOSS, figures.AUX, figures.LOGITS, figures.CHANGE)
CHARTS = (*ONE_RUN, *TWO_RUNS)


def layer(number: int, counts: list[int], dead=(), **figures: float) -> dict:
    total = sum(counts)
    load = [count / max(total, 1) for count in counts]
    measured = {"max_violation": max(load) * len(load) - 1, "normalised_entropy": 0.9, "aux": 1.1, "z_loss": 2.0}
    measured |= {"logit_rms": 0.5, "router_grad_norm": 0.25 / (number + 1), "experts_without_grad": 0}
    facts = {"layer": number, "tokens": total, "assignments": total, "dead": len(dead)}
    return facts | measured | {"counts": counts, "importance": load, "dead_since": [list(d) for d in dead]} | figures


def made_run(logs: list[list[dict]], name: str = "made", facts: dict | None = None, **line) -> TrainingRun:
    """A run of a log every 10 steps, as its file would be read."""
    first = {"format": FORMAT, "model": "m", "top_k": 1, "layers": [row["layer"] for row in logs[0]] if logs else []}
    first |= {"num_experts": [len(row["counts"]) for row in logs[0]] if logs else [], **(facts or {})}
    lines = [first]
    for at, rows in enumerate(logs, 1):
        tokens = 1000 * at
        lines.append({"step": 10 * at, "steps": 10, "tokens": tokens, "loss": 5 - at / 10, "layers": rows, **line})
        lines.append({"snapshot": 10 * at, "tokens": tokens, "changed": [0.5 / at] * len(rows)})
    return read_run_file("\n".join(map(json.dumps, lines)).encode() + b"\n", name)


HOSTILE = "![x](http://example.com/x.png) <img src=x onerror=alert(1)>"


def run_file(folder: Path, logs: int, unfinished: bytes = b"") -> Path:
    """A run in a folder, with a line that is not written to its end."""
    head = {"format": "moeviz training v1", "model": HOSTILE, "layers": [0], "num_experts": [2], "top_k": 1}
    lines = [head, *({"step": n, "tokens": n, "layers": [layer(0, [5, 5])]} for n in range(1, logs + 1))]
    folder.mkdir(exist_ok=True)
    (folder / "routing.jsonl").write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode() + unfinished)
    return folder
