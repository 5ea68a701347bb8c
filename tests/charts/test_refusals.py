"""What every chart makes of every odd trace: it draws, or it says the one sentence written down for it.

The sentences stand in `data/refusals.json`, each with the traces and charts that it is said of; what does not stand
there must draw. After a change, `pytest --update-golden tests/charts/test_refusals.py` writes the table anew: read the
diff.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
from chart_cases import encodings, repeated, sized, tables
from labels import labelled

from moeviz import RoutingTrace
from moeviz.charts import TOPICS, theme
from moeviz.charts.chart import Chart
from moeviz.errors import MoevizError
from moeviz.history.systems import SYSTEMS, shipped_trace
from moeviz.routing_trace import NO_EXPERT
from moeviz.testing import sample_trace

CHARTS = [chart for charts in TOPICS.values() for chart in charts]
TABLE = Path(__file__).parents[1] / "data" / "refusals.json"
Refusals = dict[str, str]  # the sentence of each chart that does not draw, by the chart's key


def whole(tokens: int = 8, **sizes: int) -> RoutingTrace:
    """A trace that lacks nothing: labels, parameter counts, and every text ten times for charts of the vocabulary."""
    return labelled(sized(repeated(sample_trace(tokens=tokens, **sizes))))


def of_another_model(**facts: object) -> RoutingTrace:
    return replace(whole(), model=replace(whole().model, **facts))


def with_layers_of_different_sizes() -> RoutingTrace:
    """64 experts, top-4; one layer has 16 of them only."""
    trace = whole(layers=3, top_k=4, experts=64)
    experts, logits = trace.experts.copy(), trace.logits.copy()
    experts[1] %= 16
    logits[1, :, 16:] = float("-inf")
    return replace(trace, experts=experts, logits=logits, model=replace(trace.model, num_experts=(64, 16, 64)))


def without_an_expert_for_anyone() -> RoutingTrace:
    trace = whole()
    return replace(trace, experts=np.full_like(trace.experts, NO_EXPERT), weights=np.zeros_like(trace.weights))


TRACES: dict[str, Callable[[], RoutingTrace]] = {
    "nothing missing": whole,
    "ids alone": lambda: replace(whole(), weights=None, logits=None),
    "no labels": lambda: replace(whole(), tokens=whole().tokens.drop(columns="label")),
    "no parameter counts": lambda: of_another_model(parameters=None),
    "no score function": lambda: of_another_model(score_function="unknown"),
    "one of each text": lambda: labelled(sized(sample_trace())),
    "no tokens": lambda: whole().select(tokens=slice(0, 0)),
    "one token": lambda: whole().select(tokens=slice(0, 1)),
    "one layer": lambda: whole(layers=1),
    "one expert a token": lambda: whole(top_k=1),
    "one expert in all": lambda: whole(top_k=1, experts=1),
    "seven experts": lambda: whole(experts=7),
    "layers of different sizes": with_layers_of_different_sizes,
    "every token dropped": without_an_expert_for_anyone,
} | {name: partial(shipped_trace, name) for name in SYSTEMS}


def fitted(trace: RoutingTrace, chart: Chart) -> RoutingTrace:
    """As many layers and tokens as the chart asks for, as far as the trace has them."""
    first, last = trace.model.layers[0], trace.model.layers[-1]
    layers = {"all": None, "one": (last,), "two": dict.fromkeys((first, last))}[chart.layers]
    tokens = {"all": None, "window": slice(0, theme.MAX_TOKENS), "one": slice(0, 1)}[chart.tokens]
    return trace.select(layers=layers and tuple(layers), tokens=tokens)


def refused(trace: RoutingTrace, charts: list[Chart] = CHARTS) -> Refusals:
    """The sentence of each chart that does not draw the trace. One that draws it shows what its tables have."""
    said = {}
    for chart in charts:
        try:
            frame = chart.measure(fitted(trace, chart))
            with alt.data_transformers.enable("default", max_rows=None):  # as Streamlit has it
                drawn = chart.draw(frame)
                spec = drawn.to_dict(validate=False)  # slow, and done for the golden files
        except MoevizError as error:
            said[chart.key] = str(error)
        else:
            assert not unknown_columns(drawn, spec), chart.key
            json.dumps(spec, allow_nan=False)  # an axis from nothing to nothing
    return said


def unknown_columns(drawn: alt.Chart | alt.LayerChart, spec: dict) -> set[str]:
    """Columns that the picture wants to show, and that no table has and no step of the picture itself makes."""
    shown = {channel["field"] for encoding in encodings(spec) for channel in inside(encoding, "field")}
    made = {name for step in inside(spec, "as") for name in as_list(step["as"])}
    own = {name for rows in spec.get("datasets", {}).values() for row in rows for name in row}  # and of no table
    return shown - made - own - {name for table in tables(drawn) for name in table}


def inside(spec: object, key: str) -> list[dict]:
    """Every part of a specification, however deep, that says something under this key."""
    parts = list(spec.values()) if isinstance(spec, dict) else spec if isinstance(spec, list) else []
    return [spec] * (isinstance(spec, dict) and key in spec) + [found for part in parts for found in inside(part, key)]


def as_list(value: object) -> list:
    return value if isinstance(value, list) else [value]


@cache
def written_down() -> dict[str, Refusals]:
    """The table, by trace."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = [
        (trace, key, says) for says, where in table.items() for trace, keys in where.items() for key in keys.split()
    ]
    return {name: {key: says for trace, key, says in rows if trace == name} for name in TRACES}


@pytest.mark.parametrize("name", TRACES)
def test_every_chart_draws_an_odd_trace_or_says_the_sentence_written_down_for_it(name, request):
    now = refused(TRACES[name]())
    if request.config.getoption("--update-golden"):
        write_down(name, now)
    assert now == written_down()[name], (
        "Read what changed, then run pytest --update-golden tests/charts/test_refusals.py."
    )


def write_down(name: str, now: Refusals) -> None:
    """The table with the row of one trace replaced: sentence by sentence, in the order of traces and charts."""
    rows = written_down() | {name: now}
    table = {says: {} for refusals in rows.values() for says in refusals.values()}
    for trace, refusals in rows.items():
        for says in dict.fromkeys(refusals.values()):
            table[says][trace] = " ".join(key for key, said in refusals.items() if said == says)
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    written_down.cache_clear()


def test_what_lacks_nothing_is_drawn_by_every_chart():
    assert written_down()["nothing missing"] == {}


def test_another_sentence_a_refusal_without_reason_and_an_empty_picture_are_noticed():
    """The control: a metric that complains of something else, and a picture of a column that is not there."""

    def elsewhere(trace):
        raise MoevizError("Flow goes up the hill.")

    flow = TOPICS["Flow"][0]
    assert refused(whole(layers=1), [flow])[flow.key] == written_down()["one layer"][flow.key]
    assert (
        refused(whole(layers=1), [replace(flow, measure=elsewhere)])[flow.key] != written_down()["one layer"][flow.key]
    )
    assert refused(whole(), [replace(flow, measure=elsewhere)]) != {}
    lost = alt.Chart(pd.DataFrame({"load": [1.0]})).mark_bar().encode(x="weather:Q")
    assert unknown_columns(lost, lost.to_dict()) == {"weather"}
