"""What is not plausible in a trace is found and named, and nothing is said of a good one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from routed_trace import trace_of

import moeviz
from moeviz import ExpertCounts, RoutingTrace
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import example_trace, reference_routing
from moeviz.metrics.doctor import CHECKS, examine
from moeviz.metrics.doctor_rows import FEW
from moeviz.routing_trace import NO_EXPERT, NO_TOKEN_ID, NOT_RECORDED
from moeviz.testing import sample_trace

DATA = Path(__file__).parents[1] / "data"
TOKENS, EXPERTS = 1500, 8
REFERENCE = pd.read_csv(DATA / "embedded_doctor.csv", keep_default_na=False).set_index("case")["findings"]
# What the reference calls a finding, and what ours is called.
CALLED = {
    "all rows zero": "zeros",
    "rows zero": "zeros",
    "rows repeat": "repeats",
    "twice in a token": "twice",
    "one choice": "one choice",
    "shifted by +1 against its tokens": "token shift",
    "shifted by -1 against its tokens": "token shift",
    "shifted by": "rows",
    "last token missing": "number",
    "ids of one part": "one part",
    "neighbours no more alike": "neighbours",
    "alike": "layers alike",
    "loads more even": "even",
}
ONCE_IN_TWENTY = "the first 5 % of rows zero (cached prefix)"


@pytest.fixture(scope="module")
def routing() -> dict[str, np.ndarray]:
    """The embedded model on its 15 kinds of text: ids (6, 8502, 2), the tokens, and how long each text is."""
    with np.load(DATA / "embedded_doctor.npz") as arrays:
        return {name: arrays[name].astype(np.int64) for name in arrays.files}


def as_trace(ids: np.ndarray, token_id: np.ndarray | None = None, experts: int = EXPERTS) -> RoutingTrace:
    return trace_of(ids, experts, text=[""] * ids.shape[1], token_id=token_id, slot_order="unknown")


def cases(ids: np.ndarray, token_id: np.ndarray) -> dict[str, pd.DataFrame]:
    """Every case of the reference, spoilt as it says and looked at."""
    rng, true, found = np.random.default_rng(0), as_trace(ids), {}
    layers, tokens, _ = ids.shape

    def spoilt(change):
        return examine(as_trace(change(ids.copy())))

    def put(place, values):
        def change(copy):
            copy[place] = values
            return copy

        return change

    found["as it is"] = examine(true)
    found["a layer of zeros"] = spoilt(put(2, 0))
    found["the same, declared dense"] = examine(true.select(layers=[0, 1, 3, 4, 5]))
    found[ONCE_IN_TWENTY] = spoilt(put(np.s_[:, : tokens // 20], 0))
    found["one row with one id k times"] = spoilt(put(np.s_[3, 700], ids[3, 700, 0]))
    found["a layer stuck at its first row"] = spoilt(put(1, ids[1, :1]))
    found["a layer copied from another"] = spoilt(put(2, ids[1]))
    found["first row lost, beside the true one"] = examine(as_trace(ids[:, 1:]), beside=true)
    found["first row twice, beside the true one"] = examine(as_trace(ids[:, [0, *range(tokens)]]), beside=true)
    found["slots shuffled, beside the true one"] = examine(as_trace(rng.permuted(ids, axis=-1)), beside=true)
    found["last row lost, number of tokens known"] = examine(as_trace(ids[:, :-1]), tokens=tokens)
    found["ids within a rank of two"] = examine(as_trace(ids % (EXPERTS // 2)))
    found["every fifth row kept back one step"] = spoilt(put(np.s_[:, 5::5], ids[:, 4:-1:5]))
    by_lot = np.argsort(rng.random((layers, tokens, EXPERTS)), axis=-1)[..., :2]
    found["choices by lot (routing simulated)"] = examine(as_trace(by_lot))
    turn = (2 * np.arange(tokens)[:, None] + np.arange(2) + 2 * np.arange(layers)[:, None, None]) % EXPERTS
    found["experts in turn (routing forced even)"] = examine(as_trace(turn))
    found["tokens shuffled"] = examine(as_trace(ids[:, rng.permutation(tokens)]))
    found["with its tokens"] = examine(as_trace(ids, token_id))
    found["with its tokens, one row lost"] = examine(as_trace(ids[:, 1:], token_id[:-1]))
    found["with its tokens, one row too many"] = examine(as_trace(ids[:, [0, *range(tokens - 1)]], token_id))
    return found


@pytest.fixture(scope="module")
def found(routing) -> dict[str, pd.DataFrame]:
    return cases(routing["ids"][:, :TOKENS], routing["token_ids"][:TOKENS])


NOT_A_TRACE = ("an id that is the number of experts", "with its weights")


@pytest.mark.parametrize("case", [case for case in REFERENCE.index if case not in NOT_A_TRACE])
def test_each_case_is_named_for_what_it_is(found, case):
    """The findings of the reference, but for rows that repeat among zeros, which are called zeros alone."""
    wanted = {
        next(ours for theirs, ours in CALLED.items() if theirs in part) for part in REFERENCE[case].split("; ") if part
    }
    if case == ONCE_IN_TWENTY:
        wanted.discard("repeats")
    assert set(found[case]["check"]) >= wanted
    assert bool(wanted) == bool(len(found[case])), found[case]["says"].tolist()


def test_findings_say_the_layer_and_the_row(found):
    zeros = found["a layer of zeros"].iloc[0]
    assert (zeros["layer"], zeros["rows"]) == (2, TOKENS) and "Layer 2 has zeros for all 1,500 tokens" in zeros["says"]
    twice = found["one row with one id k times"].iloc[0]
    assert (twice["layer"], twice["token"], twice["rows"]) == (3, 700, 1)
    assert [int(n) for n in found[ONCE_IN_TWENTY]["rows"]] == [75] * 6
    assert found["first row lost, beside the true one"]["check"].tolist() == ["rows"]
    assert "the first lost a row" in found["first row lost, beside the true one"].iloc[0]["says"]


def test_nothing_is_said_of_twenty_good_traces(routing):
    good = [as_trace(routing["ids"][:, text], routing["token_ids"][text]) for text in texts_of(routing)]
    good += [as_trace(routing["ids"], routing["token_ids"]), example_trace(), sample_trace(), sample_trace(seed=1)]
    good += [moeviz.trace(moeviz.load_model(), "Il fait froid à Paris. " * 3, max_new_tokens=40)]
    said = [examine(trace)["says"].tolist() for trace in good]
    assert len(good) == 20 and not any(said), said


def test_the_order_of_slots_plays_no_part(routing):
    ids = routing["ids"][:, :TOKENS].copy()
    ids[:, 5::5], ids[2] = ids[:, 4:-1:5], 0
    shuffled = np.random.default_rng(1).permuted(ids, axis=-1)
    assert examine(as_trace(ids))["check"].tolist() == examine(as_trace(shuffled))["check"].tolist() != []


def test_a_prompt_that_is_counted_twice_and_a_text_that_comes_twice_are_found(routing):
    ids, tokens = routing["ids"][:, :300], routing["token_ids"][:300]
    again = np.concatenate([ids[:, :40], ids], axis=1)
    assert "again" in set(examine(as_trace(again, np.concatenate([tokens[:40], tokens])))["check"])
    twice = as_trace(np.concatenate([ids, ids], axis=1))
    frame = twice.tokens.assign(
        sequence=np.repeat([0, 1], 300).astype("int32"), position=np.tile(np.arange(300, dtype="int32"), 2)
    )
    (row,) = examine(replace(twice, tokens=frame)).to_dict("records")
    assert row["check"] == "duplicates" and row["token"] == 300


def test_padding_that_is_counted_is_found(routing):
    ids, tokens = routing["ids"][:, :200], routing["token_ids"][:200].copy()
    tokens[:10] = tokens[100:110] = 3
    trace = as_trace(ids, tokens)
    frame = trace.tokens.assign(
        sequence=np.repeat([0, 1], 100).astype("int32"), position=np.tile(np.arange(100, dtype="int32"), 2)
    )
    assert set(examine(replace(trace, tokens=frame))["check"]) == {"padding"}


@pytest.mark.parametrize("value", [-1.0, 1e30])
def test_weights_that_no_router_gives_are_found(value):
    trace = sample_trace()
    weights = trace.weights.copy()
    weights[2, 7, 1] = value
    weights[2, 7] = np.sort(weights[2, 7])[::-1]
    (row,) = examine(replace(trace, weights=weights)).to_dict("records")
    assert (row["check"], row["layer"], row["token"]) == ("weights", trace.model.layers[2], 7)
    assert f"{value:.3g}" in row["says"]


def test_weights_that_do_not_sum_as_the_others_do_are_found():
    trace = sample_trace(tokens=100)
    weights = trace.weights.copy()
    weights /= weights.sum(axis=-1, keepdims=True)
    assert not len(examine(replace(trace, weights=weights)))
    weights[2, 7] *= np.float32(0.5)
    (row,) = examine(replace(trace, weights=weights)).to_dict("records")
    assert (row["check"], row["layer"], row["token"]) == ("weights", 2, 7) and "do not sum to 1" in row["says"]


def test_what_the_last_layer_alone_does_not_record_is_no_finding(routing):
    ids = routing["ids"][:, :TOKENS].copy()
    ids[5, :700] = NOT_RECORDED
    assert not len(examine(as_trace(ids)))


def test_counts_are_looked_at_too():
    counts = sample_trace().counts()
    assert not len(examine(counts))
    spoilt = counts.assignments.copy()
    spoilt[0, 1], spoilt[0, 3] = spoilt[0, 2], 0
    found = examine(ExpertCounts(counts.model, spoilt, counts.tokens))
    assert found["check"].tolist() == ["zeros", "layers alike"] and found["layer"].tolist() == [3, 2]


def test_every_check_can_find_something(found):
    """A check that never speaks would say nothing by its silence."""
    spoken = {check for frame in found.values() for check in frame["check"]}
    elsewhere = {"again", "duplicates", "padding", "weights", "draft", "not recorded"}  # by other tests
    assert spoken | elsewhere >= set(CHECKS)


def test_a_trace_that_begins_later_is_no_shift():
    trace = sample_trace(tokens=40)
    late = trace.select(tokens=slice(1, None))
    assert not len(examine(late, trace))  # its positions say that the first token is not there


def test_two_unrelated_traces_have_no_cause_and_the_agreement_of_chance():
    for seed in range(8):
        found = examine(sample_trace(6, 60, seed=seed), sample_trace(6, 60, seed=seed + 100))
        assert found["check"].tolist() == ["disagreement"] and "at chance" in found.iloc[0]["says"]


# Captures that are publicly known to be bad, each made of the embedded model's own


def drafted(ids: np.ndarray, of: int, step: int = 1) -> np.ndarray:
    """Layer 0 as a draft model writes it: a router of its own numbers, which goes by the next token."""
    written, numbers = ids.copy(), np.random.default_rng(3).permutation(EXPERTS)
    written[0, : ids.shape[1] - step] = numbers[ids[of, step:]]
    return written


def texts_of(routing: dict[str, np.ndarray]) -> list[slice]:
    ends = np.cumsum(routing["lengths"])
    return [slice(end - length, end) for end, length in zip(ends, routing["lengths"], strict=True)]


@pytest.mark.parametrize("of", [0, 5])
def test_a_first_layer_that_a_draft_model_wrote_is_found_and_is_no_lost_row(routing, of):
    """vLLM before pull request 48622, with a multi-token head: the rest of the trace is right."""
    ids, tokens = drafted(routing["ids"], of), routing["token_ids"]
    for trace in (as_trace(ids), as_trace(ids, tokens), as_trace(ids[:, :TOKENS], tokens[:TOKENS])):
        (row,) = examine(trace).to_dict("records")
        assert (row["check"], row["layer"]) == ("draft", 0) and "pull request 48622" in row["says"]
    found = [set(examine(as_trace(ids[:, text], tokens[text]))["check"]) for text in texts_of(routing)]
    assert sum(checks == {"draft"} for checks in found) >= 13, "of 15 texts of some 500 tokens each"


def test_a_draft_model_of_the_same_token_is_found_beside_another_trace(routing):
    """Its router goes by the token as the model's last one does, for two tokens of three."""
    ids = routing["ids"][:, :TOKENS]
    written = drafted(ids, 5, step=0)
    written[0, ::3] = np.argsort(np.random.default_rng(4).random((TOKENS // 3, EXPERTS)), axis=1)[:, :2]
    (row,) = examine(as_trace(written), beside=as_trace(ids)).to_dict("records")
    assert (row["check"], row["layer"]) == ("other model", 0)


@pytest.mark.parametrize("cached", [FEW, 64])
def test_zeros_of_a_cached_prefix_are_found_in_a_top_1_model_too(routing, cached):
    for text in texts_of(routing):
        ids = routing["ids"][:, text, :1].copy()
        ids[:, :cached] = 0
        row = examine(as_trace(ids, routing["token_ids"][text])).set_index("check").loc["zeros"]
        assert (row["token"], row["rows"]) == (0, cached) and "go to expert 0 at all layers" in row["says"]


def test_a_top_1_model_whose_busiest_expert_is_the_first_is_no_finding(routing):
    ids = routing["ids"][..., :1].copy()
    for layer in ids:
        numbers = np.argsort(np.argsort(-np.bincount(layer[:, 0], minlength=EXPERTS)))
        layer[:] = numbers[layer]
    for text in [slice(None), *texts_of(routing)]:
        assert "zeros" not in set(examine(as_trace(ids[:, text], routing["token_ids"][text]))["check"])


@pytest.mark.parametrize(("device", "devices"), [(0, 2), (1, 2), (0, 4)])
def test_ids_within_a_device_are_found_with_their_range(routing, device, devices):
    """What one device of an expert-parallel group runs, by its own numbers; a slot of another device is empty."""
    ids, own = routing["ids"][:, :TOKENS], EXPERTS // devices
    local = np.where(ids // own == device, ids % own, NO_EXPERT)
    found = examine(as_trace(-np.sort(-local, axis=-1))).set_index("check")
    assert f"All expert ids are from 0 to {own - 1}, and there are 8" in found.loc["one part", "says"]
    counts = as_trace(-np.sort(-local, axis=-1)).counts()
    assert examine(counts).set_index("check").loc["one part", "says"].startswith("All counts are of experts from 0 to")
    assert not len(examine(as_trace(ids).counts()))


def test_rows_off_by_one_are_found_by_texts_where_no_ids_are_known(routing):
    ids, tokens = routing["ids"][:, :TOKENS], routing["token_ids"][:TOKENS]
    words = [f"word {token}" for token in tokens]
    assert not len(examine(with_texts(as_trace(ids), words)))
    lost = with_texts(as_trace(ids[:, 1:]), words[:-1])
    assert examine(lost)["check"].tolist() == ["token shift"]


def with_texts(trace: RoutingTrace, texts: list[str]) -> RoutingTrace:
    return replace(trace, tokens=trace.tokens.assign(text=pd.Series(texts, dtype="str")))


def test_rows_that_are_not_recorded_are_a_finding_unless_the_last_layer_alone_lacks_them(routing):
    ids = routing["ids"][:, :100].copy()
    ids[:, :16], ids[2, 40] = NOT_RECORDED, NOT_RECORDED
    (row,) = examine(as_trace(ids)).to_dict("records")
    assert (row["check"], row["token"], row["rows"]) == ("not recorded", 0, 17)
    assert row["says"].startswith("97 of 600 rows, each a token at a layer, are not recorded")


@pytest.mark.parametrize("name", [EMBEDDED, NATURAL, FINE])
def test_no_fault_of_a_capture_is_found_in_sixty_texts_of_each_of_our_own_models(name):
    """The control, with token ids, and with neither ids nor texts; `neighbours` is about the text."""
    trace = reference_routing(name)
    bare = trace.tokens.assign(token_id=np.int32(NO_TOKEN_ID), text=pd.Series("", trace.tokens.index, dtype="str"))
    for whole in (trace, replace(trace, tokens=bare)):
        parts = [whole.select(tokens=rows) for rows in trace.tokens.groupby("sequence").indices.values()]
        said = [set(examine(part)["check"]) - {"neighbours"} for part in (whole, *parts)]
        assert len(said) == 61 and not any(said)
