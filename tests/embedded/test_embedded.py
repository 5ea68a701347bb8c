"""The model that ships: small enough, offline, and with experts that tell languages, code and sums apart."""

import re
import subprocess
import sys
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from model_card import cells

import moeviz
from models.evaluate import measures
from moeviz.capture.corpus import trace_corpus
from moeviz.embedded import embedded_path
from moeviz.embedded.evaluation import DOMAINS, evaluation_set
from moeviz.embedded.recorded_routing import (
    EXAMPLE,
    balance_study,
    example_trace,
    study_means,
    texts_over_training,
    traces_over_training,
)
from moeviz.metrics.label_similarity import label_similarity
from moeviz.metrics.load import expert_load
from moeviz.metrics.routing_over_training import router_saturation
from moeviz_app.jobs.recorded import EXAMPLES

EVALUATION = (embedded_path() / "EVALUATION.md").read_text()
CARD = (embedded_path() / "MODEL_CARD.md").read_text()
NEAR = 2e-3  # logits differ less than this between machines


@pytest.fixture(scope="module")
def model():
    return moeviz.load_model()


@pytest.fixture(scope="module")
def over_training():
    """The recorded traces of the training, which take seconds to read."""
    return traces_over_training()


def load_by_layer(trace):
    return expert_load(trace)["load"].to_numpy().reshape(6, 8)


def jsd(p, q):
    """Jensen-Shannon divergence in bits: 0 for the same load, 1 for loads that share no expert."""
    middle = (p + q) / 2

    def divergence(a):
        used = a > 0
        return float((a[used] * np.log2(a[used] / middle[used])).sum())

    return (divergence(p) + divergence(q)) / 2


def test_all_that_is_needed_ships_and_is_small():
    sizes = {path.name: path.stat().st_size for path in embedded_path().iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"} <= set(sizes)
    assert sum(sizes.values()) < 45_000_000


def test_the_example_that_ships_is_what_the_model_does_now(request, model):
    """The same ids but for near ties, and the same numbers up to what another machine's arithmetic may change."""
    trace = moeviz.trace(model, EXAMPLES["Mixed"], next_tokens=True)
    if request.config.getoption("--update-golden"):
        moeviz.write_trace(trace, EXAMPLE)
    golden = example_trace()
    assert trace.tokens.equals(golden.tokens)
    np.testing.assert_allclose(trace.logits, golden.logits, atol=NEAR)
    chosen, recorded = (np.sort(t.experts, axis=-1) for t in (trace, golden))
    kth, next_best = -np.sort(-golden.logits, axis=-1)[..., 1:3].transpose(2, 0, 1)
    decided = kth - next_best > 2 * NEAR
    assert decided.mean() > 0.95
    assert (chosen == recorded).all(axis=-1)[decided].all()
    np.testing.assert_allclose(trace.weights[decided], golden.weights[decided], atol=NEAR)
    for now, shipped in (
        (trace.next_tokens.p, golden.next_tokens.p),
        (trace.next_tokens.lens_p, golden.next_tokens.lens_p),
    ):
        np.testing.assert_allclose(now, shipped, atol=NEAR)
    first, shipped = (
        [part.after(row)[0] for row in range(len(part.ids))] for part in (trace.next_tokens, golden.next_tokens)
    )
    assert [a for (a, p), _ in zip(first, shipped, strict=True) if p > 0.5] == [a for a, p in shipped if p > 0.5]


def test_the_example_is_read_without_torch():
    code = "import moeviz.embedded.recorded_routing as it, sys; it.example_trace(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert EXAMPLE.stat().st_size < 60_000


def test_example_prompts_use_the_experts_differently(model):
    """Each example but the mixed one, against each other: the load heat maps must look different."""
    texts = {name: text for name, text in EXAMPLES.items() if name != "Mixed"}
    loads = {name: load_by_layer(moeviz.trace(model, text)) for name, text in texts.items()}
    assert len(loads) >= 6
    for one, other in combinations(loads, 2):
        assert max(jsd(p, q) for p, q in zip(loads[one], loads[other], strict=True)) > 0.1, (one, other)


@pytest.mark.parametrize("name", ["French", "German", "Python", "JSON", "SQL", "Arithmetic"])
def test_an_example_is_routed_like_its_own_kind_of_text(name, model, over_training):
    likeness = label_similarity(moeviz.trace(model, EXAMPLES[name]), over_training[max(over_training)])
    assert likeness["label"][0].lower() == name.lower()


def test_recorded_traces_of_training_are_of_the_same_texts_and_end_with_the_weights_that_ship(model, over_training):
    recorded = over_training
    assert len(recorded) >= 6 and list(recorded) == sorted(recorded)
    final = recorded[max(recorded)]
    now = trace_corpus(model, texts_over_training()[::10])
    rows = final.tokens["sequence"].isin(range(0, 60, 10)).to_numpy()
    assert now.tokens["text"].tolist() == final.tokens.loc[rows, "text"].tolist()
    assert (now.experts == final.experts[:, rows]).all(axis=-1).mean() > 0.98  # the weights that ship are rounded
    saturation = [router_saturation(trace, final)["saturation"].mean() for trace in recorded.values()]
    assert saturation[-1] == 1 and saturation[0] < saturation[-2] < 1


def test_the_losses_that_ship_are_those_of_the_weights_that_ship(model, monkeypatch):
    """Of three domains, without byte models: all texts, and those, take long to be read."""
    some = ("french", "python", "arithmetic")
    monkeypatch.setattr(measures, "DOMAINS", {name: DOMAINS[name] for name in some})
    unread = SimpleNamespace(bits_per_byte=lambda content, order: 0.0)
    monkeypatch.setattr(measures, "byte_models", lambda: dict.fromkeys(some, unread))
    shipped = {row[0]: row[3:5] for row in cells(EVALUATION, "Loss by domain")}
    for found in measures.loss_by_domain(model, evaluation_set()).itertuples():
        assert shipped[found.domain] == pytest.approx([found.nats, found.model], abs=0.02), found.domain


def test_the_evaluation_keeps_its_promises():
    """What the model is for: it predicts far better than bytes, and every layer is balanced and tells domains apart."""
    loss = pd.DataFrame(cells(EVALUATION, "Loss by domain")[1:-1]).iloc[:, 4:].astype(float)
    assert (loss[4] < 0.8 * loss[5]).all() and (loss[5] < loss[6]).all()
    layers = pd.DataFrame(cells(EVALUATION, "Balance and specialisation")[1:]).astype(float)
    assert (layers[1] <= 2).all() and (layers[2] == 0).all()
    assert (layers[3] > 1.5 * layers[5]).all()
    assert int(re.search(r"\*\*(\d+) of 60\*\* texts", EVALUATION)[1]) > 40


def test_the_card_quotes_the_evaluation():
    quoted = [line for line in CARD.split("## Measured")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    assert len(quoted) > 20
    assert not [line for line in quoted if line not in EVALUATION]


def test_the_card_has_the_study_that_ships():
    runs, means = balance_study(), study_means()
    assert len(runs) == 12 and runs.groupby(["balanced_over", "mutual_information"])["seed"].nunique().eq(3).all()
    named = {"batch": "the batch", "window": "each window"}
    spread = runs.groupby(["balanced_over", "mutual_information"]).agg(lambda found: found.max() - found.min())
    for (over, push), mean in means.iterrows():
        apart = spread.loc[(over, push)]
        cells = [
            f"{mean['nats']:.3f} ({apart['nats']:.3f})",
            f"{mean['bits_per_byte']:.3f}",
            f"{mean['information']:.3f} ({apart['information']:.3f})",
            f"{mean['repeats']:.1%} ({100 * apart['repeats']:.1f})",
            f"{mean['repeats_any']:.1%}",
        ]
        assert f"| {named[over]} | {push:g} | {' | '.join(cells)} |" in CARD
    costs = means["nats"]["window", 0.0] - means["nats"]["batch", 0.0]
    assert round(costs, 2) == 0.05 and spread["nats"].max() > costs, "as the card and the page of Mixtral say"
    assert means["information"]["window"].max() < 0.1 < means["information"]["batch"].min()
