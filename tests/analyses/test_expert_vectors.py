"""What experts write, and which are alike: planted ones are found, and shuffled outputs write nothing."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import CONFIGS, tiny_model

import moeviz
from moeviz.analyses import expert_vectors as module
from moeviz.analyses.expert_vectors import BEYOND, SHUFFLES, expert_vectors
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.parameters import describe
from moeviz.capture.routers.geometry import nearest_by_weights
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.labelled_texts import texts_that_ship
from moeviz.metrics.expert_table import expert_table, notes_on_experts, with_twins

FEW = texts_that_ship()[::12]


@pytest.fixture(scope="module")
def model():
    return moeviz.load_model()


def table_of(model):
    table = expert_table(trace_corpus(model, FEW, outputs=True))
    found = expert_vectors(model, FEW)
    return with_twins(table, nearest_by_weights(model.model), found.nearest)


def notes_by_place(table):
    notes = zip(table["layer"], table["expert"], notes_on_experts(table), strict=True)
    return {(layer, expert): note for layer, expert, note in notes if note}


@torch.no_grad()
def test_planted_experts_are_found_and_the_same_texts_show_none_in_the_model_as_it_ships(model):
    assert not notes_by_place(table_of(model))
    planted = replace(model, model=copy.deepcopy(model.model))
    experts = [layer.mlp.experts for layer in planted.model.model.layers]
    for weights in (experts[2].gate_up_proj, experts[2].down_proj):
        weights[5] = weights[3]  # a copy
    rows = torch.randperm(experts[3].down_proj.shape[-1], generator=torch.Generator().manual_seed(0))
    gate, up = experts[3].gate_up_proj[0].chunk(2)
    experts[3].gate_up_proj[2] = torch.cat([gate[rows], up[rows]])  # a copy with its neurons in another order
    experts[3].down_proj[2] = experts[3].down_proj[0][:, rows]
    experts[4].down_proj[1] = 0  # dead
    experts[1].down_proj[6, 7] *= 300  # one number of its outputs is an outlier
    found = notes_by_place(table_of(planted))
    assert found.pop((1, 6)).startswith("a Super Expert, whose outputs reach ")
    assert found == {
        (2, 3): "like expert 5 by its weights; like expert 5 by its outputs",
        (2, 5): "like expert 3 by its weights; like expert 3 by its outputs",
        (3, 0): "like expert 2 by its outputs",
        (3, 2): "like expert 0 by its outputs",
        (4, 1): "it adds nothing",
    }


def test_nothing_is_said_of_shuffled_outputs_nor_of_the_model_that_ships_which_is_as_far_as_one_of_them(
    model, monkeypatch
):
    """Each of the 20 shuffles takes the place of the outputs: the routing stays, and so do the texts."""
    kept, borne_out = [], module._borne_out
    monkeypatch.setattr(module, "_borne_out", lambda gains: kept.append(gains) or borne_out(gains))
    written = expert_vectors(model, texts_that_ship()).written
    (gains,) = kept
    assert len(gains) == 6 and 2 < written["beyond"].max() < BEYOND and not written["holds"].any()
    for shuffle in range(1, SHUFFLES + 1):
        assert not any(layer["holds"].any() for layer in borne_out(dealt_anew(gains, shuffle)))


A, B = "7", " population"  # in the texts, B follows A


@torch.no_grad()
def writes_b(model, layer: int, expert: int):
    """A random model of which one expert gets the tokens A, and puts out B's row of the head; all else is noise."""
    runs, word = tiny_model(CONFIGS["mixtral"]), model.tokenizer
    a, b = (word(text, add_special_tokens=False)["input_ids"][-1] for text in (A, B))
    embedding, router = runs.get_input_embeddings().weight, runs.model.layers[layer].mlp.gate.weight
    embedding[:, :2] = torch.tensor([0.05, 0])
    embedding[a, 1] = 0.2
    router[expert] = 0
    router[expert, :2] = torch.tensor([-3.0, 10])
    experts, rows = runs.model.layers[layer].mlp.experts, runs.get_output_embeddings().weight
    gate = experts.gate_up_proj[expert].chunk(2)[0]
    experts.gate_up_proj[expert] = torch.cat([gate, gate])  # silu(x) * x is never below 0
    experts.down_proj[expert] = 0.02 * torch.nn.functional.normalize(rows[b] - rows.mean(0), dim=0)[:, None]
    return replace(model, model=runs, info=describe(runs, "made up"))


def test_what_an_expert_is_made_to_write_is_said_of_it_alone_and_under_no_shuffle(model, monkeypatch):
    texts = [(kind, text[:230].replace(" ", f" {A}{B} ", 3)) for kind, text in texts_that_ship()[::2]]
    kept, borne_out = [], module._borne_out
    monkeypatch.setattr(module, "_borne_out", lambda gains: kept.append(gains) or borne_out(gains))
    written = expert_vectors(writes_b(model, layer=2, expert=7), texts).written
    (said,) = written[written["holds"]].to_dict("records")
    assert (said["layer"], said["expert"], said["promoted"][0]) == (2, 7, B)
    assert said["followed"] > 0.3 > 4 * said["usual"]
    (gains,) = kept
    for shuffle in range(1, SHUFFLES + 1):
        assert not any(layer["holds"].any() for layer in borne_out(dealt_anew(gains, shuffle)))


def dealt_anew(gains, shuffle):
    """A shuffle in the place of the outputs."""
    return [np.concatenate([part[[shuffle]], np.delete(part[1:], shuffle - 1, axis=0)]) for part in gains]


def test_sums_that_would_fill_the_memory_are_not_begun(model, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 2**20)
    with pytest.raises(CaptureError, match=r"48 experts.*0\.\d GB"):
        expert_vectors(model, texts_that_ship())


def test_texts_are_needed(model):
    with pytest.raises(InvalidPrompt, match="text"):
        expert_vectors(model, [])
