"""Many texts in one trace: each routed as it is alone, each with its label, and long ones cut where they may be."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer
from transformers import PreTrainedTokenizerBase

from moeviz.capture.corpus import fitting_stretches, trace_corpus
from moeviz.capture.models.load import LoadedModel, load_model
from moeviz.capture.models.parameters import describe
from moeviz.capture.record.joining import joined
from moeviz.capture.trace import trace
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.metrics.specialization import load_by_label
from moeviz.testing import sample_trace

TEXTS = [("French", "Il fait froid."), ("Python", "for i in range(3):\n    print(i)"), ("French", "Où est la gare ?")]


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model()


@pytest.fixture(scope="module")
def short() -> LoadedModel:
    """A tiny random model, whose context of 128 tokens is soon full."""
    model = tiny_model(CONFIGS["mixtral"])
    return LoadedModel(model, tiny_tokenizer(), describe(model, "tiny"))


def test_each_text_is_routed_exactly_as_it_is_alone(embedded):
    whole = trace_corpus(embedded, TEXTS, keep_logits=True)
    for sequence, (label, text) in enumerate(TEXTS):
        part = whole.select(tokens=(whole.tokens["sequence"] == sequence).to_numpy())
        assert set(part.tokens["label"]) == {label}
        alone = part.tokens.drop(columns="label").assign(sequence=np.int32(0))
        assert replace(part, model=whole.model, tokens=alone).equals(trace(embedded, text))


def test_the_joined_trace_is_ready_for_metrics(embedded):
    whole = trace_corpus(embedded, TEXTS)
    assert whole.logits is None and whole.tokens["label"].dtype == "str"
    assert whole.tokens["sequence"].dtype == np.int32 and whole.model.parameters is not None
    assert load_by_label(whole)["label"].unique().tolist() == ["French", "Python"]


def test_progress_is_reported_for_each_text_and_stops_by_raising(embedded):
    told = []
    trace_corpus(embedded, iter(TEXTS), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]

    def stop(done, total):
        told.append("stopped")
        raise InterruptedError

    with pytest.raises(InterruptedError):
        trace_corpus(embedded, TEXTS, progress=stop)
    assert told.count("stopped") == 1


def test_an_empty_text_is_named(embedded):
    with pytest.raises(InvalidPrompt, match=r"2 of 2.*'poem'"):
        trace_corpus(embedded, [("prose", "Once"), ("poem", "")])


def test_no_texts_are_no_corpus(embedded):
    with pytest.raises(InvalidPrompt, match="text"):
        trace_corpus(embedded, [])


@pytest.mark.parametrize("text", ["12 + 7 = 19, und kalt. " * 40, "🦙" * 90, "é\n" * 200], ids=["words", "🦙", "é"])
def test_a_long_text_is_cut_into_stretches_that_fit(short, text):
    stretches = fitting_stretches(short, text)
    assert len(stretches) > 1
    assert "".join(stretches) == text
    counts = [short.count_tokens(stretch) for stretch in stretches]
    assert max(counts) <= 128 and min(counts[:-1]) > 120


def test_every_stretch_starts_anew(short):
    text = "It is cold today. " * 60
    whole = trace_corpus(short, [("cold", text), ("short", "Il")])
    stretches = fitting_stretches(short, text)
    assert whole.tokens["sequence"].max() == len(stretches)
    assert (whole.tokens.groupby("sequence")["position"].min() == 0).all()
    second = whole.select(tokens=(whole.tokens["sequence"] == 1).to_numpy())
    assert (second.experts == trace(short, stretches[1]).experts).all()
    read = whole.tokens.query("label == 'cold' and position > 0")  # each begins with the tokenizer's <s>
    assert "".join(read["text"]) == text


def test_a_text_that_just_fits_is_left_whole(short):
    text = " the" * 127
    assert short.count_tokens(text) == 128
    assert fitting_stretches(short, text) == [text]


def test_special_tokens_count_too(short):
    stretches = fitting_stretches(short, " the" * 300)
    assert [short.count_tokens(stretch) for stretch in stretches] == [128, 128, 300 - 2 * 127 + 1]


def with_context(model: LoadedModel, tokens: int) -> LoadedModel:
    other = tiny_model(CONFIGS["mixtral"])
    other.config = deepcopy(other.config)
    other.config.max_position_embeddings = tokens
    return LoadedModel(other, model.tokenizer, model.info)


def test_a_context_that_is_too_small_for_a_character_is_reported(short):
    with pytest.raises(InvalidPrompt, match="3 tokens"):
        fitting_stretches(with_context(short, 3), "🦙🦙")


def test_without_a_fast_tokenizer_a_long_text_is_refused_with_its_length(short):
    class Slow(PreTrainedTokenizerBase):
        is_fast = False

        def __init__(self):
            """Nothing of the base class is needed."""

        def __call__(self, text, **_options):
            return short.tokenizer(text, verbose=False)

    slow = LoadedModel(short.model, Slow(), short.info)
    with pytest.raises(InvalidPrompt, match=r"301 tokens.*128"):
        fitting_stretches(slow, " the" * 300)
    assert fitting_stretches(slow, " the" * 3) == [" the" * 3]


def test_a_text_too_short_to_tell_the_score_function_leaves_it_to_the_others(trace):
    unknown = replace(trace, model=replace(trace.model, score_function="unknown"))
    assert joined([unknown, trace]).model.score_function == "softmax"
    assert joined([unknown, unknown]).model.score_function == "unknown"
    sigmoid = replace(trace, model=replace(trace.model, score_function="sigmoid"))
    assert joined([sigmoid, trace]).model.score_function == "unknown"


def test_traces_of_different_models_are_not_joined(trace):
    with pytest.raises(CaptureError, match="model"):
        joined([trace, replace(trace, model=replace(trace.model, name="another"))])


def test_joining_keeps_only_what_every_part_has(trace, ids_only_trace):
    both = joined([trace, ids_only_trace])
    assert both.weights is None and both.logits is None
    assert (both.experts == np.concatenate([trace.experts, trace.experts], axis=1)).all()
    assert both.tokens["sequence"].tolist() == [0] * 32 + [1] * 32


def test_a_part_without_tokens_takes_no_number():
    parts = [sample_trace(tokens=4), sample_trace(tokens=4).select(tokens=slice(0, 0)), sample_trace(tokens=4)]
    assert joined(parts).tokens["sequence"].tolist() == [0] * 4 + [1] * 4
