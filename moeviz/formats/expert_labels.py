"""Labels of experts in JSON: those of other programs, and ours in the form of one of them.

colibri's atlas of experts: `canonical_specialists`, or `experts` as its analyze.py writes them, a list or an object by
"layer:expert". The score is its `spec`; if that is one for each of several runs, the least.

    {"categories": [...], "canonical_specialists": [{"layer": 3, "expert": 17, "top_topic": "poetry", "spec": 0.71}]}

MoE_analysis' hypotheses: one layer a file, which its name says (…_L15_…). The score is F1.

    {"17": {"hypothesis": "closes brackets", "metrics": {"f1_score": 0.74}}}
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_ALL_EXPERTS, MAX_EXPERTS, MAX_LAYERS, shown
from moeviz.formats.importers.importer import Source, source_of
from moeviz.text import is_text, quoted

MOST_BYTES = 2**26
MOST_LABEL = 200  # characters
OF_LAYER = re.compile(r"_L(\d{1,4})[_.]")
TOPICS = ("top_topic", "topic", "top", "label")  # keys of the topic: the first that is there
COLUMNS = {"layer": "int32", "expert": "int16", "label": "str", "score": "float64", "measure": "str"}
Row = tuple[int, int, str, float, str]


def read_labels(path: str | Path) -> pd.DataFrame:
    """Read the labels that others gave to experts, from colibri's or MoE_analysis' JSON.

    One row per label. Columns: layer int32 (the model's own index) · expert int16 · label str (anybody's words, at most
    200 characters) · score float64 (as in the file; NaN without one) · measure str ("spec" or "F1"; "" without a
    score). Raises `InvalidTrace` for a file of another form or of more than 64 MB, and `OSError` if it cannot be read.
    """
    return labels_in(source_of(Path(path), MOST_BYTES))


def labels_in(source: Source) -> pd.DataFrame:
    """Return the labels in a file's bytes; see `read_labels`."""
    content = source.first
    given = content if isinstance(content, dict) else {}
    entries = given.get("canonical_specialists", given.get("experts"))
    if isinstance(entries, list | dict):
        pairs = list(entries.items()) if isinstance(entries, dict) else [("", entry) for entry in entries]
        rows = [_of_colibri(place, entry) for place, entry in pairs]
    elif given and all(isinstance(entry, dict) and "hypothesis" in entry for entry in given.values()):
        layer = OF_LAYER.search(source.name)
        if layer is None:
            raise InvalidTrace(
                f"{quoted(source.name)} has hypotheses on the experts of one layer, and its name does not say which. "
                "Give the file the name that it had, with _L15_ in it for layer 15."
            )
        rows = [_of_analysis(layer[1], expert, entry) for expert, entry in given.items()]
    else:
        raise InvalidTrace(
            f"{quoted(source.name)} has no labels of experts. They are read from JSON with “canonical_specialists” or "
            "“experts” (colibri), or with a “hypothesis” for each expert (MoE_analysis)."
        )
    if len(rows) > MAX_ALL_EXPERTS:
        raise InvalidTrace(
            f"{quoted(source.name)} has {len(rows):,} labels, and at most {MAX_ALL_EXPERTS:,} are read. Split it."
        )
    return pd.DataFrame(rows, columns=[*COLUMNS]).astype(COLUMNS)


def to_labels(table: pd.DataFrame, model: str) -> tuple[bytes, int]:
    """Write the labels of `expert_table` in the form of colibri's atlas, and return their number.

    Specialists have one, and experts with a name.

    table   of `moeviz.metrics.expert_table`.
    model   its name.
    """
    labelled = table[(table["role"] == "specialist") | (table["name"] != "")]
    entries = [
        {
            "layer": int(row["layer"]),
            "expert": int(row["expert"]),
            "top_topic": row["kind"] if row["role"] == "specialist" else row["name"],
            **{name: round(float(row[name]), 4) for name in ("spec", "lift", "q") if math.isfinite(row[name])},
            "name": row["name"],
        }
        for row in labelled.to_dict("records")
    ]
    facts = {
        "version": 1,
        "engine": "moeviz",
        "model": model,
        "method": "moeviz experts: specialists by kinds of text beyond chance, names tested on other texts",
        "categories": sorted({entry["top_topic"] for entry in entries}),
        "canonical_specialists": entries,
    }
    return (json.dumps(facts, ensure_ascii=False, indent=1) + "\n").encode(), len(entries)


def _of_colibri(place: str, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise InvalidTrace(
            f"A label of an expert is {shown(entry)}; it must be an object with layer, expert and topic."
        )
    layer, _, expert = place.partition(":")
    at, of = (layer, expert) if place else (entry.get("layer"), entry.get("expert"))
    topic = next((entry[name] for name in TOPICS if name in entry), None)
    specs = entry["spec"].values() if isinstance(entry.get("spec"), dict) else [entry.get("spec")]
    known = [_number(spec) for spec in specs]
    return _row(at, of, topic, math.nan if any(map(math.isnan, known)) else min(known, default=math.nan), "spec")


def _of_analysis(layer: str, expert: str, entry: dict[str, Any]) -> Row:
    metrics = entry.get("metrics")
    f1 = metrics.get("f1_score") if isinstance(metrics, dict) else None
    return _row(layer, expert, entry["hypothesis"], f1, "F1")


def _row(layer: Any, expert: Any, label: Any, score: Any, measure: str) -> Row:
    """Check and make one label. Raises `InvalidTrace` if it is invalid."""
    at, of = (_whole(part, most) for part, most in ((layer, MAX_LAYERS), (expert, MAX_EXPERTS)))
    if at is None or of is None:
        raise InvalidTrace(
            f"A label is of layer {shown(layer)} and expert {shown(expert)}; both must be whole numbers."
        )
    if not is_text(label) or not label.strip():
        raise InvalidTrace(f"The label of layer {at}, expert {of} is {shown(label)}; it must be text.")
    value = _number(score)
    return at, of, label.strip()[:MOST_LABEL], value, measure if math.isfinite(value) else ""


def _whole(part: Any, most: int) -> int | None:
    if isinstance(part, str) and re.fullmatch(r"[0-9]{1,5}", part):
        part = int(part)
    return part if type(part) is int and 0 <= part <= most else None


def _number(score: Any) -> float:
    return float(score) if type(score) in (int, float) and 0 <= score <= 1 else math.nan
