"""Experts that tell two sets of texts apart: planted ones are found, by hand the same, and by luck next to none."""

import json

import numpy as np
import pandas as pd
import pytest

from moeviz.cli.main import main
from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import InvalidTrace
from moeviz.formats.exports import write_trace
from moeviz.formats.steering_map import read_steering_map
from moeviz.metrics.contrast import (
    SteeringTrial,
    contrast,
    contrast_sentence,
    first_half,
    steering_sentence,
    texts_of_label,
    turned,
)
from moeviz.testing import sample_trace


@pytest.fixture(scope="module")
def texts():
    return reference_routing("embedded")


def some(trace, sequences):
    return trace.select(tokens=trace.tokens["sequence"].isin(sequences).to_numpy())


def mean_share(trace, layer: int, expert: int) -> float:
    """Over texts, of the share of a text's tokens that have the expert: one token after the other."""
    at, texts = trace.model.layers.index(layer), {}
    for row, text in enumerate(trace.tokens["sequence"]):
        texts.setdefault(text, []).append(expert in trace.experts[at, row].tolist())
    return float(np.mean([np.mean(has) for has in texts.values()]))


def test_shares_differences_and_t_are_those_counted_by_hand(texts):
    one, other = (texts_of_label(texts, kind) for kind in ("French", "German"))
    found = contrast((one, other)).set_index(["layer", "expert"])
    layer, expert, rates = 2, 7, []
    at = texts.model.layers.index(layer)
    for part in (one, other):
        has = (part.experts[at] == expert).any(axis=-1)
        rates.append(
            [has[(part.tokens["sequence"] == text).to_numpy()].mean() for text in part.tokens["sequence"].unique()]
        )
    row = found.loc[layer, expert]
    assert [row["share"], row["other_share"]] == pytest.approx([np.mean(rate) for rate in rates])
    error = np.sqrt(sum(np.var(rate, ddof=1) / len(rate) for rate in rates)) + 0.5 / 8
    assert row["t"] == pytest.approx((np.mean(rates[0]) - np.mean(rates[1])) / error)


def test_french_and_german_are_told_apart_and_exchanged_they_change_signs(texts):
    one, other = (texts_of_label(texts, kind) for kind in ("French", "German"))
    found, back = contrast((one, other)), contrast((other, one))
    assert found["holds"].sum() >= 5 and (found["t"] == -back["t"]).all()
    held = found[found["holds"]]
    best = held.loc[held["difference"].abs().idxmax()]
    layer, expert = int(best["layer"]), int(best["expert"])
    shares = [mean_share(part, layer, expert) for part in (one, other)]
    claim = contrast_sentence(found, ("French", "German"))
    assert [*claim.values.values()][:6] == ["French", "German", len(held), 48, layer, expert]
    assert [claim["share"], claim["other_share"]] == pytest.approx(shares)
    assert contrast_sentence(found.assign(holds=False), ("French", "German")).name == "no_contrast"
    amounts = turned(found, 2.0)
    assert sum(map(len, amounts.values())) == found["holds"].sum()
    signs = {(layer, expert): amount for layer, of in amounts.items() for expert, amount in of.items()}
    held = found[found["holds"]].set_index(["layer", "expert"])["difference"]
    assert all(np.sign(amount) == np.sign(held[at]) and abs(amount) == 2 for at, amount in signs.items())


def test_random_halves_of_the_same_texts_find_nothing_in_95_of_100(texts):
    rng, named = np.random.default_rng(5), 0
    sequences = texts.tokens["sequence"].unique()
    for _ in range(200):
        dealt = rng.permutation(sequences)
        found = contrast((some(texts, dealt[:30]), some(texts, dealt[30:])))
        named += bool(found["holds"].any())
    assert named <= 10


def test_a_planted_expert_is_found_among_many_and_alone():
    trace = sample_trace(tokens=800, layers=2, experts=64, top_k=2)
    trace = first_texts(trace, 20)
    one, other = some(trace, range(10)), some(trace, range(10, 20))
    assert not contrast((one, other))["holds"].any()
    experts = one.experts.copy()
    experts[1, ::2, 1] = 17
    experts[1, :, 0] = np.where(experts[1, :, 0] == 17, 18, experts[1, :, 0])
    planted = contrast((replaced(one, experts), other))
    held = planted[planted["holds"]]
    assert held[["layer", "expert"]].values.tolist() == [[trace.model.layers[1], 17]]


def first_texts(trace, count):
    size = len(trace.tokens) // count
    tokens = trace.tokens.assign(
        sequence=np.repeat(np.arange(count), size).astype("int32"),
        position=np.tile(np.arange(size), count).astype("int32"),
    )
    return replaced(trace, trace.experts, tokens)


def replaced(trace, experts, tokens=None):
    from dataclasses import replace

    return replace(trace, experts=experts, tokens=trace.tokens if tokens is None else tokens, weights=None, logits=None)


def test_half_a_text_is_its_beginning(texts):
    half = first_half(texts)
    lengths = texts.tokens.groupby("sequence").size()
    assert (half.tokens.groupby("sequence").size() == -(-lengths // 2)).all()
    assert (half.tokens.groupby("sequence")["position"].min() == 0).all()


def test_too_few_texts_other_models_and_kinds_that_are_not_there_are_refused(texts):
    one = texts_of_label(texts, "French")
    with pytest.raises(InvalidTrace, match=r"4 texts.*3"):
        contrast((one, some(texts, texts.tokens["sequence"].unique()[:3])))
    with pytest.raises(InvalidTrace, match="num_experts"):
        contrast((one, reference_routing("embedded-fine")))
    with pytest.raises(InvalidTrace, match="'Latin'"):
        texts_of_label(texts, "Latin")
    with pytest.raises(InvalidTrace, match="labels"):
        texts_of_label(sample_trace(), "French")


def test_the_command_names_the_experts_of_two_kinds_and_of_two_files(texts, tmp_path, capsys):
    file, other = tmp_path / "texts.npz", tmp_path / "other.npz"
    write_trace(texts, file)
    assert main(["contrast", str(file), "--kinds", "French", "German"]) == 0
    said = capsys.readouterr().out
    assert "of 48 experts" in said and "French" in said and "German" in said
    write_trace(texts_of_label(texts, "French"), file)
    write_trace(texts_of_label(texts, "German"), other)
    assert main(["contrast", str(file), str(other), "--json"]) == 0
    rows = pd.DataFrame(json.loads(capsys.readouterr().out)["experts"])
    assert len(rows) == 48 and rows["holds"].any()
    assert main(["contrast", str(file)]) == 3
    assert "Give a second file, or --kinds" in capsys.readouterr().err


def test_a_map_to_steer_by_comes_back_as_it_was_and_in_the_form_that_engines_read(texts, tmp_path, capsys):
    file, facts = tmp_path / "texts.npz", tmp_path / "french.json"
    write_trace(texts, file)
    assert main(["contrast", str(file), "--kinds", "French", "German", "--steering", str(facts)]) == 0
    found = contrast(tuple(texts_of_label(texts, kind) for kind in ("French", "German")))
    amounts = turned(found, 1.0)
    assert "wrote" in capsys.readouterr().err and read_steering_map(facts) == amounts
    table = np.fromfile(facts.with_suffix(".f32"), "<f4").reshape(texts.model.num_layers, 8)  # as ds4 reads it
    assert {(layer, expert) for layer, of in amounts.items() for expert in of} == set(map(tuple, np.argwhere(table)))
    assert main(["what-if", "Il fait froid", "--bias", str(facts), "--json"]) == 0
    effect = pd.DataFrame(json.loads(capsys.readouterr().out)["effect"])
    assert (effect["kl"] > 0).any()


@pytest.mark.parametrize(
    "facts, numbers, says",
    [
        ({"format": "ds4-expert-steering-v1", "shape": [2, 3]}, b"\0" * 23, "2 layers.*3 experts.*24"),
        ({"format": "ds4-expert-steering-v1", "shape": [2, 3]}, b"\0" * 25, "damaged"),
        ({"format": "ds4-expert-steering-v1", "shape": [1, 1]}, b"\0\0\xc0\x7f", "finite numbers"),
        ({"format": "ds4-expert-steering-v1", "shape": [2**20, 2**20]}, b"", "its shape"),
        ({"format": "ds4-expert-steering-v1", "shape": [0, 8]}, b"", "its shape"),
        ({"format": "ds4-expert-steering-v1", "shape": [True, 8]}, b"", "its shape"),
        ({"shape": [1, 1]}, b"\0" * 4, "its format is None"),
        ([], b"", "JSON"),
    ],
)
def test_a_damaged_map_is_refused_in_one_sentence(tmp_path, facts, numbers, says):
    file = tmp_path / "map.json"
    file.write_text(json.dumps(facts))
    file.with_suffix(".f32").write_bytes(numbers)
    with pytest.raises(InvalidTrace, match=says):
        read_steering_map(file)
    with pytest.raises(InvalidTrace, match="suffix"):
        read_steering_map(file.with_suffix(".f32"))


@pytest.mark.parametrize(("judged", "helps"), [(-0.03, True), (0.01, False), (-0.005, False)])
def test_turning_up_helps_if_it_does_on_other_texts_and_beyond_experts_drawn_at_random(judged, helps):
    at_random = tuple(np.linspace(-0.01, 0.03, 40))
    claim = steering_sentence(SteeringTrial(8, "French", "German", 2.0, -0.05, judged, at_random))
    assert [*claim.values.values()][1:] == [8, "French", "German", 2.0, -0.05, judged, 40, -0.01, 0.03]
    assert ("not" in claim["verdict"]) is not helps
