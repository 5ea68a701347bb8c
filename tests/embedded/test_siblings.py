"""The embedded model's siblings: what is said of their weights, and of how they route, is so."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open

import moeviz
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import FINE, NATURAL, OWN_MODELS, installed, model_folder
from moeviz.embedded.recorded_routing import fine_bias, reference_routing, texts_over_training
from moeviz.metrics.load import balance
from moeviz.metrics.multi_trace import figures_of_several, repetition_of_several
from moeviz.parameters import active_parameters
from moeviz.routing_trace import RoutingTrace

MODELS = Path(__file__).parents[2] / "models" / "moeviz_models"
LIKE_MIXTRAL = 0.10, 0.35  # share of tokens that repeat the first choice: 0.14 to 0.28 in Mixtral's table 5
MOST_BYTES = 26e6


class Sibling(NamedTuple):
    """One of them, and what is written of it."""

    name: str
    folder: Path
    card: str
    evaluation: str
    model: LoadedModel
    recorded: RoutingTrace


@pytest.fixture(scope="module", params=[NATURAL, FINE])
def sibling(request) -> Sibling:
    folder = MODELS / OWN_MODELS[request.param].folder
    texts = [(folder / name).read_text() for name in ("MODEL_CARD.md", "EVALUATION.md")]
    return Sibling(request.param, folder, *texts, moeviz.load_model(request.param), reference_routing(request.param))


@pytest.fixture(scope="module")
def recorded() -> dict[str, RoutingTrace]:
    return {name: reference_routing(name) for name in OWN_MODELS}


def test_a_checkout_has_its_weights_and_they_are_small(sibling):
    assert sibling.name in installed() and model_folder(sibling.name) == sibling.folder
    assert (sibling.folder / "model.safetensors").stat().st_size <= MOST_BYTES


def test_the_card_is_of_these_weights(sibling):
    weights = (sibling.folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in sibling.card and f"{len(weights):,} bytes" in sibling.card
    own, info = OWN_MODELS[sibling.name], sibling.model.info
    assert f"{own.tokens:,} tokens" in sibling.card
    active = active_parameters(info.parameters, info.top_k)
    assert f"{info.parameters.total:,} in all; {active:,} active per token" in sibling.card
    (mean,) = re.findall(r"mean of domains \|[^|]*\|[^|]*\| [\d.]+ \| ([\d.]+)", sibling.card)
    assert float(mean) == own.bits_per_byte


def test_the_card_quotes_the_evaluation(sibling):
    measured = sibling.card.split("## Measured")[1].split("\n## ")[0]
    quoted = [line for line in measured.splitlines() if line.startswith("| ")]
    assert len(quoted) > 20
    assert not [line for line in quoted if line not in sibling.evaluation]
    assert "## Continuations, unedited" in sibling.evaluation, "which the card leaves to it"


def test_the_recorded_routing_is_what_the_weights_do_now(sibling):
    """Of every tenth text: a router's near tie may fall the other way on another machine."""
    recorded, now = sibling.recorded, trace_corpus(sibling.model, texts_over_training()[::10])
    rows = recorded.tokens["sequence"].isin(range(0, 60, 10)).to_numpy()
    assert recorded.model.name == sibling.name
    assert now.tokens["text"].tolist() == recorded.tokens.loc[rows, "text"].tolist()
    assert (now.experts == recorded.experts[:, rows]).all(axis=-1).mean() > 0.99


def test_natural_s_first_choices_repeat_as_seldom_as_mixtral_s_and_the_embedded_model_s_far_more(recorded):
    by_model = repetition_of_several(recorded).groupby("trace")
    natural, embedded = (by_model.get_group(name) for name in (NATURAL, EMBEDDED))
    assert natural["share"].between(*LIKE_MIXTRAL).all(), natural["share"].tolist()
    assert embedded["share"].min() > natural["share"].max()
    assert (natural["over_chance"] - natural["by_load"]).mean() > 0.02, "more than the loads alone give"


def test_where_nothing_is_next_to_anything_the_repetition_is_gone(recorded):
    """The control: the same choices in another order are what the loads alone give."""
    natural = recorded[NATURAL]
    order = np.random.default_rng(0).permutation(len(natural.tokens))
    mixed = replace(natural, experts=natural.experts[:, order])
    rows = repetition_of_several({"mixed": mixed}).query("trace == 'mixed'")
    assert abs((rows["over_chance"] - rows["by_load"]).mean()) < 0.005


def test_natural_s_experts_tell_next_to_nothing_about_the_kind_of_text(recorded):
    rows = figures_of_several(recorded).set_index("trace")
    beyond = rows["information"] - rows["shuffled"]
    assert beyond[NATURAL] < 0.2 * beyond[EMBEDDED]


def test_fine_s_bias_on_the_choice_is_exact():
    """Rounded to bfloat16, steps of a thousandth are lost beside a bias of one."""
    with safe_open(MODELS / "fine" / "model.safetensors", framework="pt") as file:
        biases = [name for name in file.keys() if name.endswith("e_score_correction_bias")]  # noqa: SIM118 (no dict)
        assert len(biases) == 6 and all(file.get_tensor(name).dtype == torch.float32 for name in biases)
        shipped = fine_bias().groupby("layer")["bias"].apply(list)
        for name in biases:
            bias = file.get_tensor(name).tolist()
            assert shipped[int(name.split(".")[2])] == pytest.approx(bias, abs=1e-5), "the story draws these"
        others = {file.get_tensor(name).dtype for name in set(file.keys()) - set(biases)}
    assert others == {torch.bfloat16}


def test_fine_s_bias_keeps_the_load_even_and_scores_alone_would_not():
    """The control is the choice without a bias, from the same logits; a sigmoid keeps their order."""
    texts = [text for _, text in texts_over_training()[::4]]
    biased = moeviz.trace(moeviz.load_model(FINE), texts)
    alone = replace(biased, experts=(-biased.logits).argsort(axis=-1)[..., :7].astype(biased.experts.dtype))
    with_it, without = (balance(trace)["max_over_mean"].mean() for trace in (biased, alone))
    assert balance(biased)["dead_experts"].sum() == 0
    assert with_it < 0.8 * without


def test_fine_s_experts_follow_kinds_of_text_though_nothing_pushed_them(recorded):
    """What the study says of a load that is even over batches; and many small experts make more sets than few large."""
    rows = figures_of_several(recorded).set_index("trace")
    beyond = rows["information"] - rows["shuffled"]
    assert beyond[FINE] > 10 * beyond[NATURAL]
    assert rows["sets"][FINE] > 20 * rows["possible_sets"][NATURAL]
