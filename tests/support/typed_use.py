"""moeviz as a user's type checker sees it. mypy checks this file in strict mode (`make check`), and nothing runs it.

`assert_type` fails where a type changes, and where it is lost to Any. What a user must not write stands under a
`type: ignore` with the code of its error: strict mode complains where there is no such error.
"""

from collections.abc import Iterator
from typing import assert_type

import altair as alt
import numpy as np
import pandas as pd

import moeviz
from moeviz.charts import TOPICS
from moeviz.formats.exports import EXPORTS
from moeviz.metrics import expert_load
from moeviz.model_info import ScoreFunction
from moeviz.parameters import active_parameters
from moeviz.report.view import View


def a_model() -> moeviz.LoadedModel:
    model = moeviz.load_model("embedded", dtype="float32", device_map="cpu")
    assert_type(model, moeviz.LoadedModel)
    assert_type(model.name, str)
    assert_type(model.max_tokens, int | None)
    assert_type(model.count_tokens("Il fait froid."), int)
    assert_type(model.info, moeviz.ModelInfo)
    moeviz.load_model(7)  # type: ignore[call-overload]
    return model


def one_trace(model: moeviz.LoadedModel) -> moeviz.RoutingTrace:
    sampling = moeviz.Sampling(temperature=0.8, top_p=0.9, seed=1)
    decoding = moeviz.Decoding(num_beams=2)
    trace = moeviz.trace(
        model,
        ["Il fait froid.", "12 + 7 = 19"],
        max_new_tokens=3,
        sampling=sampling,
        decoding=decoding,
        kernels="auto",
        keep_logits=False,
        intervention=moeviz.Mute({2: (1, 5)}),
        progress=lambda done, total: None,
    )
    assert_type(trace, moeviz.RoutingTrace)
    moeviz.trace(model, "text", kernels="sometimes")  # type: ignore[arg-type]
    moeviz.trace(model, "text", max_tokens=3)  # type: ignore[call-arg]
    moeviz.trace(model, "text", intervention=moeviz.Sampling())  # type: ignore[arg-type]
    return trace


def a_growing_trace(model: moeviz.LoadedModel) -> None:
    growing = moeviz.stream(model, "Once upon a time", max_new_tokens=5)
    assert_type(growing, Iterator[moeviz.RoutingTrace])
    assert_type([trace.tokens for trace in growing], list[pd.DataFrame])


def the_parts_of_a_trace(trace: moeviz.RoutingTrace) -> None:
    assert_type(trace.tokens, pd.DataFrame)
    assert_type(trace.experts, np.ndarray)
    assert_type(trace.weights, np.ndarray | None)
    assert_type(trace.need("logits", "This example"), np.ndarray)
    assert_type(trace.assignments(), pd.DataFrame)
    assert_type(trace.select(layers=[0], tokens=slice(3)), moeviz.RoutingTrace)
    assert_type(trace.equals(trace), bool)
    trace.tokens = pd.DataFrame()  # type: ignore[misc]  # a trace does not change
    _ = trace.no_such_field  # type: ignore[attr-defined]


def facts_about_a_model(info: moeviz.ModelInfo) -> None:
    assert_type(info.layers, tuple[int, ...])
    assert_type(info.score_function, ScoreFunction)
    assert_type(info.parameters, moeviz.ParameterCounts | None)
    if info.parameters is not None:
        assert_type(info.parameters.total, int)
        assert_type(active_parameters(info.parameters, info.top_k), int)


def what_if(model: moeviz.LoadedModel, trace: moeviz.RoutingTrace) -> None:
    found = moeviz.what_if(model, "Il fait froid.", moeviz.Mute({0: [1]}, reroute=False))
    assert_type(found, moeviz.WhatIf)
    assert_type(found.changed, moeviz.RoutingTrace)
    assert_type(found.effect, pd.DataFrame)
    moeviz.what_if(model, "Il fait froid.", moeviz.Force({0: [1]}))
    moeviz.what_if(model, "Il fait froid.", moeviz.TopK(4, layers=(0, 1)))
    moeviz.what_if(model, "Il fait froid.", moeviz.Swap(0, 1, 2))
    moeviz.what_if(model, "Il fait froid.", moeviz.Replay(trace))
    moeviz.what_if(model, "Il fait froid.", moeviz.Precision("bfloat16"))
    moeviz.what_if(model, "Il fait froid.", "mute")  # type: ignore[arg-type]
    assert_type(moeviz.ablate(model, "Il fait froid.", layers=[0]), pd.DataFrame)


def many_texts(model: moeviz.LoadedModel) -> None:
    assert_type(moeviz.trace_corpus(model, [("french", "Il fait froid.")]), moeviz.RoutingTrace)


def files(trace: moeviz.RoutingTrace) -> None:
    moeviz.write_trace(trace, "trace.npz")
    assert_type(moeviz.read_trace("trace.npz"), moeviz.RoutingTrace)
    assert_type(EXPORTS[0].write(trace), bytes)


def numbers_and_pictures(trace: moeviz.RoutingTrace) -> None:
    frame = expert_load(trace)
    assert_type(frame, pd.DataFrame)
    assert_type(moeviz.metrics.balance(trace), pd.DataFrame)
    moeviz.metrics.balanc(trace)  # type: ignore[attr-defined]
    chart = TOPICS["Load"][0]
    assert_type(chart.draw(chart.measure(trace)), alt.Chart | alt.LayerChart)


def one_call_draws(trace: moeviz.RoutingTrace) -> None:
    assert_type(moeviz.view(trace), View)
    moeviz.view(trace).save("view.html")


def in_the_app(trace: moeviz.RoutingTrace) -> None:
    with moeviz.open_in_app(trace, browser=False) as app:
        assert_type(app, moeviz.RunningApp)
        assert_type(app.url, str)
    moeviz.open_in_app("trace.npz")  # type: ignore[arg-type]


def errors() -> str | None:
    try:
        moeviz.read_trace("no such file.csv")
    except moeviz.InvalidTrace as error:
        return str(error)
    except moeviz.MoevizError:
        raise
    return None


def names_that_are_not_there() -> None:
    _ = moeviz.traec  # type: ignore[attr-defined]
    assert_type(moeviz.__version__, str)
