"""Every chart that draws a trace, traces that it must draw, and the comparison of a chart with tests/golden."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from moeviz import ParameterCounts, RoutingTrace
from moeviz.charts import TOPICS, theme
from moeviz.charts.expert import ATLAS, COMPANY, FLOW, KINDS, LOADS, ROWS, TOKENS, WEIGHTS
from moeviz.charts.system_table import SIDE_BY_SIDE
from moeviz.history.mixtral.exhibit import MIXTRAL_LOAD, MIXTRAL_REPETITION
from moeviz.history.systems import SYSTEMS, part, shipped_trace
from moeviz.history.timeline.chart import EXPERTS_AT_WORK, TIMELINE

GOLDEN = Path(__file__).parents[1] / "golden"
CHARTS = [chart for charts in TOPICS.values() for chart in charts]
OF_ONE_EXPERT = [LOADS, TOKENS, KINDS, COMPANY, FLOW, WEIGHTS, ATLAS, ROWS]
VARYING = {"$schema", "config", "data", "datasets", "views"}


def sized(trace: RoutingTrace) -> RoutingTrace:
    """The trace with made-up parameter counts, which fit any number of layers."""
    layers = len(trace.model.layers)
    counts = ParameterCounts(6_000, 6_000, 20_000, 400, 8 * 3_000 * layers, 0, 0, 90, per_expert=(3_000,) * layers)
    return replace(trace, model=replace(trace.model, parameters=counts))


def fitted(trace: RoutingTrace, chart) -> RoutingTrace:
    """As many layers and tokens as the chart asks for, in the way that the app does it."""
    layers = {"all": None, "one": (1,), "two": (0, 2)}[chart.layers]
    tokens = {"all": None, "window": slice(0, theme.MAX_TOKENS), "one": slice(4, 5)}[chart.tokens]
    return trace.select(layers=layers, tokens=tokens)


def repeated(trace: RoutingTrace, times: int = 10) -> RoutingTrace:
    """The trace as so many texts, all the same: charts of the vocabulary want to see a token ten times."""
    rows, tokens = np.tile(np.arange(len(trace.tokens)), times), len(trace.tokens)
    texts = np.repeat(np.arange(times, dtype=np.int32), tokens)
    arrays = {name: getattr(trace, name) for name in ("experts", "weights", "logits")}
    arrays = {name: None if values is None else values[:, rows] for name, values in arrays.items()}
    return replace(trace, tokens=trace.tokens.iloc[rows].reset_index(drop=True).assign(sequence=texts), **arrays)


def steady(spec):
    """The specification without data, and without the names that Altair counts up."""
    if isinstance(spec, list):
        return [steady(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    counted = {key for key in spec if key == "name" and re.fullmatch(r"view_\d+", str(spec[key]))}
    return {key: steady(part) for key, part in spec.items() if key not in VARYING | counted}


def encodings(spec) -> list[dict]:
    """Every `encoding` of a specification, layers included."""
    found = [spec["encoding"]] if "encoding" in spec else []
    return found + [encoding for layer in spec.get("layer", ()) for encoding in encodings(layer)]


def check_golden(chart, spec, request):
    spec = steady(spec)
    golden = GOLDEN / f"{chart.key}.json"
    if request.config.getoption("--update-golden"):
        golden.write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    assert golden.exists(), "New chart: look at it in the app, then run pytest --update-golden."
    assert spec == json.loads(golden.read_text(encoding="utf-8")), (
        "Changed chart: look at it in the app, then run pytest --update-golden."
    )


def tables(drawn) -> list[pd.DataFrame]:
    """The tables of a chart, those of its layers too, each once."""
    parts = [drawn, *getattr(drawn, "layer", [])]
    found = [part.data for part in parts] + [table for part in parts[1:] for table in tables(part)]
    return list({id(table): table for table in found if isinstance(table, pd.DataFrame)}.values())


# A picture, and what `measure` is given.
PICTURES = (
    (TIMELINE, lambda: ()),
    (EXPERTS_AT_WORK, lambda: ()),
    (MIXTRAL_LOAD, lambda: (15,)),
    (MIXTRAL_REPETITION, lambda: ()),
    (SIDE_BY_SIDE, lambda: ({name: shipped_trace(name) for name in SYSTEMS},)),
    *(shown for name in SYSTEMS for shown in part(name, "exhibit").EXHIBIT.charts),
)
HISTORY_CHARTS = [chart for chart, _ in PICTURES]
