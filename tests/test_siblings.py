"""The embedded model's sibling without the push: what is said of its weights, and of how it routes, is so."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_embedded import PRINTED_BY, check_sections

import moeviz
from moeviz.capture.corpus import trace_corpus
from moeviz.embedded.own_models import NATURAL, OWN_MODELS, installed, model_folder
from moeviz.embedded.reference import natural_routing, reference_routing
from moeviz.embedded.routing_over_training import texts_over_training
from moeviz.metrics.several import figures_of_several, repetition_of_several
from moeviz.routing_trace import RoutingTrace

FOLDER = Path(__file__).parent.parent / "models" / "moeviz_models" / "natural"
CARD = (FOLDER / "MODEL_CARD.md").read_text()
EVALUATION = (FOLDER / "EVALUATION.md").read_text()
LIKE_MIXTRAL = 0.10, 0.35  # share of tokens that repeat the first choice: 0.14 to 0.28 in Mixtral's table 5


@pytest.fixture(scope="module")
def recorded() -> RoutingTrace:
    return natural_routing()


@pytest.fixture(scope="module")
def model():
    return moeviz.load_model(NATURAL)


def test_a_checkout_has_its_weights_and_they_are_small():
    assert NATURAL in installed() and model_folder(NATURAL) == FOLDER
    assert (FOLDER / "model.safetensors").stat().st_size <= 26e6


def test_the_card_is_of_these_weights(model):
    weights = (FOLDER / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in CARD and f"{len(weights):,} bytes" in CARD
    own = OWN_MODELS[NATURAL]
    assert f"{own.tokens:,} tokens" in CARD
    assert f"{model.info.parameters.total:,} in all" in CARD
    (mean,) = re.findall(r"mean of domains \|[^|]*\|[^|]*\| [\d.]+ \| ([\d.]+)", CARD)
    assert float(mean) == own.bits_per_byte


def test_the_card_quotes_the_evaluation():
    quoted = [line for line in CARD.split("## Measured")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    assert len(quoted) > 20
    assert not [line for line in quoted if line not in EVALUATION]


def test_the_recorded_routing_is_what_the_weights_do_now(model, recorded):
    """Of every tenth text: a router's near tie may fall the other way on another machine."""
    now = trace_corpus(model, texts_over_training()[::10])
    rows = recorded.tokens["sequence"].isin(range(0, 60, 10)).to_numpy()
    assert recorded.model.name == NATURAL
    assert now.tokens["text"].tolist() == recorded.tokens.loc[rows, "text"].tolist()
    assert (now.experts == recorded.experts[:, rows]).all(axis=-1).mean() > 0.99


def test_its_first_choices_repeat_as_seldom_as_mixtral_s_and_the_embedded_model_s_far_more(recorded):
    by_model = repetition_of_several({"natural": recorded, "embedded": reference_routing()}).groupby("trace")
    natural, embedded = (by_model.get_group(name) for name in ("natural", "embedded"))
    assert natural["share"].between(*LIKE_MIXTRAL).all(), natural["share"].tolist()
    assert embedded["share"].min() > natural["share"].max()
    assert (natural["over_chance"] - natural["by_load"]).mean() > 0.02, "more than the loads alone give"


def test_where_nothing_is_next_to_anything_the_repetition_is_gone(recorded):
    """The control: the same choices in another order are what the loads alone give."""
    order = np.random.default_rng(0).permutation(len(recorded.tokens))
    mixed = replace(recorded, experts=recorded.experts[:, order])
    rows = repetition_of_several({"mixed": mixed}).query("trace == 'mixed'")
    assert abs((rows["over_chance"] - rows["by_load"]).mean()) < 0.005


def test_its_experts_tell_next_to_nothing_about_the_kind_of_text(recorded):
    rows = figures_of_several({"natural": recorded, "embedded": reference_routing()}).set_index("trace")
    beyond = rows["information"] - rows["shuffled"]
    assert beyond["natural"] < 0.2 * beyond["embedded"]


@pytest.mark.survey
@PRINTED_BY
def test_the_evaluation_is_of_these_weights(make, sections, model):
    check_sections(EVALUATION, make(model), sections)
