"""Captions: a sentence of what stands out in a chart, and none of what chance would do."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moeviz.charts import NAMED
from moeviz.charts.serving import CHARTS as OF_SERVING
from moeviz.embedded.recorded_routing import example_trace, reference_routing
from moeviz.errors import MoevizError
from moeviz.metrics.load import load_caption
from moeviz.metrics.significance import beyond_chance
from moeviz.metrics.specialization import label_divergence_caption
from moeviz.testing import sample_trace

TRACES, SELDOM = 20, 0.05
ALL = NAMED | {chart.key: chart for chart in OF_SERVING}
CAPTIONED = {key for key, chart in ALL.items() if chart.say}


def sentences(trace):
    """What each chart says of a trace; charts that it cannot have are left out."""
    layers = {"all": None, "one": trace.model.layers[:1], "two": trace.model.layers[:2]}
    for key in CAPTIONED:
        chart = ALL[key]
        part = trace if layers[chart.layers] is None else trace.select(layers=layers[chart.layers])
        try:
            yield key, chart.caption(chart.measure(part))
        except MoevizError:
            continue


def test_a_chart_without_a_caption_says_nothing():
    assert set(ALL) > CAPTIONED
    assert ALL["entropy_grid"].caption(pd.DataFrame({"share": [0.5]})) is None


@pytest.fixture(scope="module")
def told():
    """What is said of the shipped example, of 60 labelled texts and of a made-up trace with favoured experts."""
    traces = (example_trace(), reference_routing(), sample_trace(tokens=200))
    return [(key, sentence) for trace in traces for key, sentence in sentences(trace) if sentence]


def test_nearly_every_sentence_is_said_of_some_trace(told):
    assert CAPTIONED - {key for key, _ in told} <= {
        "z_loss_by_layer",
        "margin_by_layer",
        "imbalance_by_layer",
        "load_of_two_layers",
        "touched_by_layer",
    }


def test_a_sentence_is_short_and_names_no_expert_without_its_layer(told):
    for key, sentence in told:
        assert len(sentence.split()) <= 25, sentence
        assert sentence[0].isupper() or sentence[0] in "“0123456789", sentence
        assert (
            sentence.endswith(".")
            and "nan" not in sentence
            and not re.search(r"(layer|expert|device) \d+\.\d", sentence)
        )
        assert "layer" in sentence or not re.search(r"expert \d", sentence), key


def at_random(rng, tokens):
    """A trace whose routers choose uniformly at random, with labels."""
    logits = rng.normal(size=(4, tokens, 8)).astype(np.float32)
    made = sample_trace(layers=4, tokens=tokens)
    chosen = np.argsort(-logits, axis=-1)[..., :2].astype(np.int16)
    labels = pd.Series([f"kind {row * 12 // tokens % 3}" for row in range(tokens)], dtype="str")
    frame = made.tokens.assign(label=labels)
    sequence = (np.arange(tokens) * 12 // tokens).astype(np.int32)
    frame = frame.assign(sequence=sequence, position=frame.groupby(sequence).cumcount().astype(np.int32))
    return replace(made, experts=chosen, weights=None, logits=logits, tokens=frame)


@pytest.mark.parametrize("tokens", [60])
def test_of_routing_at_random_each_sentence_is_said_at_most_once_in_twenty_times(tokens):
    rng, times = np.random.default_rng(0), Counter()
    for _ in range(TRACES):
        times.update(key for key, sentence in sentences(at_random(rng, tokens)) if sentence)
    assert {key: count for key, count in times.items() if count > SELDOM * TRACES} == {}


def test_of_nothing_nothing_is_said(trace):
    assert [pair for pair in sentences(trace.select(tokens=slice(0, 0))) if pair[1]] == []


def test_the_loads_of_a_layer_are_told_but_not_of_few_tokens():
    frame = pd.DataFrame({"layer": 2, "expert": range(4), "tokens": [10, 60, 20, 10], "load": [0.1, 0.6, 0.2, 0.1]})
    frame = frame.assign(uniform=0.25, times_uniform=frame["load"] / 0.25)
    told = {"most": (2.4, 2.4), "least": (0.4, 0.4), "beyond": 1, "experts": 4}
    assert load_caption(frame).values == {"layer": 2, "expert": 1, "layers": 1} | told
    few = frame.assign(tokens=[1, 6, 2, 1])
    assert load_caption(few) is None  # 6 of 10 is luck


def test_rows_are_beyond_chance_by_their_share_and_their_tries():
    share, tries, chance = pd.Series([0.9, 0.5, 0.2]), pd.Series([10, 500, 5000]), pd.Series([0.25, 0.25, 0.19])
    assert beyond_chance(share, tries, chance).tolist() == [True, True, False]
    assert not beyond_chance(share, tries / 100, chance).any()
    assert beyond_chance(share.head(0), tries.head(0), chance.head(0)).empty
    assert not beyond_chance(share * np.nan, tries, chance).any()


def test_a_strangers_label_is_quoted_short_and_visible():
    frame = pd.DataFrame({"layer": 0, "label": ["a\u202e" + "b" * 90, "c"], "other": ["d", "e"]})
    claim = label_divergence_caption(frame.assign(divergence=[0.9, 0.1], shuffled=0.1))
    assert (claim["other"], claim["divergence"]) == ("d", 0.9) and "a⟨U+202E⟩bbb" in claim and "b" * 30 not in claim
