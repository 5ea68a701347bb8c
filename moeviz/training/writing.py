"""Write a run: routing.jsonl, and counts of many experts in files of their own. A full disk ends no training."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.formats.trace_file import to_trace_file
from moeviz.routing_trace import RoutingTrace
from moeviz.training.recorded.run import SNAPSHOTS
from moeviz.training.routing_file import COUNTS_FOLDER, FILE, FORMAT, LARGE, write_counts_of_log
from moeviz.whole_files import write_file

log = logging.getLogger("moeviz.training")
DIGITS = 4  # of an importance: a probability, drawn as a colour


class RunWriter:
    """Appends logs to the files of a run. What cannot be written is reported in the log, and left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._safely(lambda: folder.mkdir(parents=True, exist_ok=True))

    def begin(self, facts: dict[str, Any], from_step: int) -> None:
        """Begin a run, or go on after `from_step`: logs later than that do not count any more."""
        self._append({"format": FORMAT, "from_step": from_step, **facts})

    def log(self, line: dict[str, Any], rows: Sequence[dict[str, Any]], dead: Sequence[list[list[int]]]) -> None:
        """Write a log: `rows` of `layer_metrics`, and the dead experts of each layer with the step since when."""
        small = sum(len(row["counts"]) for row in rows) <= LARGE
        layers = [_layer(row, since, small) for row, since in zip(rows, dead, strict=True)]
        if not small:
            arrays = [_arrays(line["step"], row, since) for row, since in zip(rows, dead, strict=True)]
            self._safely(lambda: write_counts_of_log(self.folder / COUNTS_FOLDER, arrays))
        self._append({**line, "layers": layers})

    def evaluation(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Write what was counted in evaluation, up to a step."""
        self._append({"evaluation": step, "layers": [_layer(row, None, False) for row in rows]})

    def snapshot(self, step: int, tokens: int, changed: Sequence[float], trace: RoutingTrace) -> None:
        """Write a trace of the probe set; its name has the number of training tokens."""
        target = self.folder / SNAPSHOTS / f"tokens-{tokens:013d}.npz"

        def write() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, to_trace_file(trace))

        self._safely(write)
        self._append({"snapshot": step, "tokens": tokens, "changed": list(changed)})

    def fact(self, said: str) -> None:
        """Write a fact that is not an alarm."""
        self._append({"said": said})

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(_plain(line), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self._safely(lambda: self._write(text))

    def _write(self, text: str) -> None:
        with (self.folder / FILE).open("ab+") as file:
            if file.seek(0, 2):
                file.seek(-1, 2)
                text = text if file.read(1) == b"\n" else "\n" + text  # a line that a killed run left unfinished
            file.write(f"{text}\n".encode())

    def _safely(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            log.warning(
                "moeviz cannot write to %s (%s); the training goes on, and this log is missing.", self.folder, error
            )


def _layer(row: dict[str, Any], dead: list[list[int]] | None, whole: bool) -> dict[str, Any]:
    plain = {name: value for name, value in row.items() if name not in ("counts", "importance")}
    plain |= {} if dead is None else {"dead": len(dead)}
    if not whole:
        return plain
    importance = [float(f"{value:.{DIGITS}g}") for value in row["importance"]]
    known = {"importance": importance} if np.isfinite(importance).all() else {}
    return plain | {"counts": row["counts"].tolist(), **known} | ({"dead_since": dead} if dead else {})


def _arrays(step: int, row: dict[str, Any], dead: list[list[int]]) -> dict[str, Any]:
    since = np.full(len(row["counts"]), -1, np.int32)
    for expert, when in dead:
        since[expert] = when
    return {
        "step": step,
        "layer": row["layer"],
        "counts": row["counts"],
        "importance": row["importance"],
        "dead_since": since,
    }


def _plain(value: Any) -> Any:
    """Convert to values that JSON has: NaN and infinity become null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
