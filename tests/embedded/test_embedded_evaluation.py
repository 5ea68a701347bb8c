"""The evaluation set that ships, the byte models beside it, and losses on a model whose answer is known."""

import json
import math
import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from models.evaluate import byte_models, measures
from models.training.documents import DOMAINS as TRAINED_DOMAINS
from models.training.evaluation_set import choose_evaluation_set
from moeviz.capture.models.load import LoadedModel, load_model
from moeviz.embedded.evaluation import DOMAINS, evaluation_set


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model()


@pytest.fixture(scope="module")
def shipped() -> dict[str, byte_models.ByteModel]:
    """The byte models that ship, which take seconds to be read."""
    return byte_models.byte_models()


@pytest.fixture
def read_once(shipped, monkeypatch):
    monkeypatch.setattr(measures, "byte_models", lambda: shipped)


def test_every_domain_was_trained_on_and_has_four_texts_that_say_where_they_are_from_and_may_be_passed_on():
    assert set(Counter(text.domain for text in evaluation_set()).values()) == {4}
    assert {text.domain for text in evaluation_set()} == set(DOMAINS) == set(TRAINED_DOMAINS)
    assert len({text.text for text in evaluation_set()}) == len(evaluation_set()), "none comes twice"
    for text in evaluation_set():
        assert text.source and text.file and text.licence
        assert not re.search(r"GPL|SA-\d|\bNC\b|unknown|\?", text.licence)


def test_every_text_fills_the_context_and_fits_into_it(model):
    counts = [model.count_tokens(text.text) for text in evaluation_set()]
    assert max(counts) <= model.max_tokens
    assert min(counts) >= measures.POSITIONS[-1]


def test_a_byte_model_worked_by_hand():
    """Fitted to "ab": P(a), P(b) after two bytes of two kinds; P(a) after two line ends, which saw one byte of one."""
    model = byte_models.fit_ngrams(["ab"])
    unigram = (1 + 2 / 256) / 4
    assert model.bits_per_byte(b"a", order=1) == pytest.approx(-math.log2(unigram))
    bigram = (1 + unigram) / 2
    assert model.bits_per_byte(b"a", order=3) == pytest.approx(-math.log2((1 + bigram) / 2))
    assert model.bits_per_byte(b"z", order=1) == pytest.approx(-math.log2(2 / 256 / 4))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_probabilities_of_a_byte_model_sum_to_one(order):
    model = byte_models.fit_ngrams(["the cat sat on the mat"])
    before = len(b"th") * model.bits_per_byte(b"th", order)
    after = [3 * model.bits_per_byte(b"th" + bytes([byte]), order) for byte in range(256)]
    assert sum(2 ** (before - bits) for bits in after) == pytest.approx(1)


def test_byte_models_come_back_from_their_file(tmp_path):
    model = byte_models.fit_ngrams(["Il fait froid. 漢字"])
    byte_models.save_ngrams({"french": model}, tmp_path / "models.npz")
    assert byte_models.byte_models(tmp_path / "models.npz")["french"].trigrams == model.trigrams


def test_byte_models_of_every_domain_ship_and_know_their_domain(shipped):
    assert set(shipped) == set(DOMAINS)
    german = b"und es geschah in jenen Tagen, dass das Volk"
    assert min(shipped, key=lambda domain: shipped[domain].bits_per_byte(german, 3)) == "german"


def answering(favoured: list[int], logit: float):
    """A forward that gives the favoured ids this logit and all others 0, whatever it reads."""

    def forward(ids):
        logits = torch.zeros(*ids.shape, 8_192)
        logits[..., favoured] = logit
        return SimpleNamespace(logits=logits)

    return forward


@pytest.mark.usefixtures("read_once")
def test_a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary(model, monkeypatch):
    monkeypatch.setattr(model.model, "forward", answering([], 0.0))
    monkeypatch.setattr(measures, "DOMAINS", {domain: DOMAINS[domain] for domain in ("french", "sql")})
    texts = [text for text in evaluation_set() if text.domain in ("french", "sql")]
    frame = measures.loss_by_domain(model, texts)
    assert frame["nats"].tolist() == pytest.approx([math.log(8_192)] * 2)
    assert frame["model"].tolist() == pytest.approx((13 * frame["tokens"] / frame["bytes"]).tolist())
    assert measures.loss_by_position(model, texts)["nats"].to_numpy() == pytest.approx(math.log(8_192))
    assert measures.context_gain(model, texts)["nats"].to_numpy() == pytest.approx(math.log(8_192))


def test_the_late_tokens_are_the_same_with_more_and_with_less_before_them(model, monkeypatch):
    """Digits are likely and all else is not: equal means show that the same tokens were scored."""
    digits = [model.tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"]
    monkeypatch.setattr(model.model, "forward", answering(digits, 3.0))
    texts = [text for text in evaluation_set() if text.domain == "arithmetic"]
    gain, by_position = measures.context_gain(model, texts)["nats"], measures.loss_by_position(model, texts)["nats"]
    assert by_position.max() - by_position.min() > 0.05  # other tokens would have another mean
    assert gain[0] == pytest.approx(gain[1])
    assert gain[0] < math.log(8_192)


def test_the_set_is_chosen_from_held_out_files_that_may_be_passed_on(tmp_path, model):
    """Chosen again from a corpus made of the set itself, with a share-alike source and a trained file put in."""
    held = {domain: [text for text in evaluation_set() if text.domain == domain] for domain in DOMAINS}
    for domain, texts in held.items():
        documents = [
            {"source": t.source, "file": t.file.split("; ")[0], "licence": t.licence, "text": t.text} for t in texts
        ]
        documents.append(documents[0] | {"source": "handbook", "licence": "CC-BY-SA-3.0 (or GPL-2+)"})
        documents.append(documents[0] | {"file": "a file that was trained on", "text": "trained " * 2_000})
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (tmp_path / f"{domain}.jsonl").write_text(lines, encoding="utf-8")
    chosen = choose_evaluation_set(tmp_path, model.tokenizer.backend_tokenizer)
    assert {text.domain for text in chosen} == set(DOMAINS)
    assert {text.text for text in chosen} <= {text.text for text in evaluation_set()}
    assert not [text for text in chosen if text.source == "handbook"]
