"""Experts to fine-tune: ESFT's scores by hand, a null beside them, and the files."""

import numpy as np
import pytest
from routed_trace import routed
from tiny_models import CONFIGS, tiny_model

from moeviz.capture.routers.discovery import expert_tensors
from moeviz.embedded.recorded_routing import traces_over_training
from moeviz.errors import InvalidTrace, MissingField
from moeviz.formats.recipes import to_esft, to_peft
from moeviz.metrics.contrast import texts_of_label
from moeviz.metrics.tune_targets import tune_targets, tune_targets_sentence
from moeviz.routing_trace import RoutingTrace

EVEN = [[0, 1], [2, 3]]


def trace_of(texts, weights=(0.75, 0.25)):
    """One layer of four experts; of each text, pairs of experts, one pair a token."""
    tokens = sum(map(len, texts))
    weights = np.broadcast_to(weights, (1, tokens, 2))
    return routed(texts, 4, layers=(4,), token_id=np.ones(tokens, int), weights=weights)


def test_scores_are_those_of_the_paper_worked_by_hand():
    """A text of two tokens and one of one count alike: (1/N) sum over texts of (1/L) sum over tokens."""
    task = trace_of([[[0, 1], [0, 2]], [[1, 0]], *[[[0, 1]]] * 2])
    base = trace_of([EVEN] * 4)
    found = tune_targets((task, base)).set_index("expert")
    # Tokens: text 1 gives expert 0 two of four slots, 1 and 2 one each; the others give 0 and 1 a half each.
    assert found["score"].tolist() == pytest.approx([0.5, (0.25 + 3 * 0.5) / 4, 0.25 / 4, 0])
    assert found["base_score"].tolist() == [0.25] * 4
    gate = tune_targets((task, base), "gate").set_index("expert")
    # Weights: text 1 gives expert 0 .75, and 1 and 2 .125 each; text 2 gives 1 .75 and 0 .25; the last two 0 .75.
    assert gate["score"].tolist() == pytest.approx([(0.75 + 0.25 + 1.5) / 4, (0.125 + 0.75 + 0.5) / 4, 0.125 / 4, 0])
    assert tune_targets((task, base), share=0.2)["in_esft"].tolist() == [True, False, False, False]
    assert tune_targets((task, base), share=0.5)["in_esft"].tolist() == [True, False, False, False], "a half is enough"
    assert tune_targets((task, base), share=0.51)["in_esft"].tolist() == [True, True, False, False]
    assert tune_targets((task, base), share=1.0)["in_esft"].tolist() == [True, True, True, False], "one has no token"


def test_an_expert_that_all_texts_use_is_taken_by_the_rule_and_is_no_target():
    rng = np.random.default_rng(0)

    def texts(favourite):
        return [[[0, favourite if rng.random() < 0.8 else 3] for _ in range(20)] for _ in range(8)]

    found = tune_targets((trace_of(texts(1)), trace_of(texts(2))), share=0.8)
    assert found["in_esft"].tolist() == [True, True, False, False]
    assert found["target"].tolist() == [False, True, False, False]
    assert [*tune_targets_sentence(found, 0.8).values.values()] == [2, 4, 0.8, 1, 1]
    same = tune_targets((trace_of(texts(1)), trace_of(texts(1))), share=0.8)
    assert not same["target"].any() and tune_targets_sentence(same, 0.8)["targets"] == 0


def test_french_texts_have_targets_that_shuffled_labels_do_not():
    *_, labelled = traces_over_training().values()
    french = texts_of_label(labelled, "French")
    others = labelled.select(tokens=(labelled.tokens["label"].astype(str) != "French").to_numpy())
    found = tune_targets((french, others))
    assert 4 <= found["target"].sum() <= found["in_esft"].sum() < len(found)
    sequences, rng, by_luck = labelled.tokens["sequence"].unique(), np.random.default_rng(0), []
    for _ in range(10):
        lot = labelled.tokens["sequence"].isin(rng.permutation(sequences)[:4]).to_numpy()
        by_luck.append(tune_targets((labelled.select(tokens=lot), labelled.select(tokens=~lot)))["target"].sum())
    assert sum(by_luck) <= 2, by_luck


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 asks transformers so
def test_files_are_those_that_esft_and_peft_read():
    peft = pytest.importorskip("peft")
    found = tune_targets((trace_of([[[1, 0]] * 9] * 6), trace_of([EVEN * 5] * 6)), share=0.6)
    assert to_esft(found) == {"experts": {"4": [0, 1]}, "shared_experts": False, "non_expert_modules": False}
    model = tiny_model(CONFIGS["mixtral"])
    names = expert_tensors(model)
    told = to_peft(found.assign(layer=1), names)
    assert told == {"target_parameters": names[1]} and len(names[1]) == 2
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[], **told))
    trained = [name for name, values in adapted.named_parameters() if values.requires_grad]
    assert trained and all("layers.1." in name and "experts" in name for name in trained)
    with pytest.raises(InvalidTrace, match="modules"):
        to_peft(found, {4: []})
    with pytest.raises(InvalidTrace, match="PEFT"):
        to_peft(found.assign(target=False), names)


def test_what_cannot_be_asked_is_said():
    pair = trace_of([EVEN] * 4), trace_of([EVEN] * 4)
    with pytest.raises(InvalidTrace, match="'size'"):
        tune_targets(pair, "size")
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InvalidTrace, match=r"0 .* 1"):
            tune_targets(pair, share=share)
    bare = RoutingTrace(pair[0].model, pair[0].tokens, pair[0].experts)
    with pytest.raises(MissingField, match="weights"):
        tune_targets((pair[0], bare), "gate")
    with pytest.raises(InvalidTrace, match=r"4 texts.*1"):
        tune_targets((pair[0], trace_of([EVEN])))
