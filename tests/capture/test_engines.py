"""What moeviz asks of a model in another engine, whichever: by one that is made up, and needs no package."""

from collections.abc import Generator

import pytest
from tiny_models import tiny_tokenizer

import moeviz
from moeviz import CaptureError, EngineModel, Force, InvalidPrompt, ModelNotFound
from moeviz.capture.engine_table import ENGINES, engine_of
from moeviz.capture.engines.engine import SoFar
from moeviz.capture.run.request import CaptureRequest
from moeviz.testing import sample_trace

TOKENS = 9


class MadeUp(EngineModel):
    """Reads five tokens, and goes on with one after the other of a trace that is known beforehand."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.trace, self.fails_at = sample_trace(tokens=TOKENS, layers=2), fails_at
        self.info = self.trace.model
        self.asked: list[CaptureRequest] = []
        self.made, self.steps, self.ended = 0, 0, 0

    max_tokens = TOKENS
    chats = False

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def run(self, asked: CaptureRequest) -> Generator[SoFar | None, None, None]:
        self.asked.append(asked)
        try:
            for done in range(asked.max_new_tokens + 1):
                self.steps += 1
                if done == self.fails_at:
                    raise CaptureError("The engine gave up.")
                yield lambda rows=TOKENS - 4 + done: self._so_far(rows)
        finally:
            self.ended += 1

    def _so_far(self, rows: int):
        self.made += 1
        return self.trace.select(tokens=slice(0, rows))

    def close(self) -> None:
        pass


@pytest.fixture
def model():
    return MadeUp()


def test_a_trace_is_made_once_and_is_the_last_of_a_stream(model):
    told = []
    whole = moeviz.trace(model, "a b c", max_new_tokens=4, progress=lambda *done: told.append(done))
    assert (len(whole.tokens), model.made, model.ended) == (TOKENS, 1, 1)
    assert told == [(done, 4) for done in range(5)]
    grown = list(moeviz.stream(model, "a b c", max_new_tokens=4))
    assert [len(trace.tokens) for trace in grown] == [5, 6, 7, 8, 9] and grown[-1].equals(whole)


def test_a_stream_that_is_seldom_looked_at_ends_as_the_whole_trace(model):
    grown = list(moeviz.stream(model, "a", max_new_tokens=4, seconds_between=1000.0))
    assert all(trace is grown[0] for trace in grown[:-1]) and len(grown[-1].tokens) == TOKENS
    assert model.made == 2


def test_who_leaves_the_loop_has_stopped_the_engine_before_its_next_token(model):
    stream = moeviz.stream(model, "a", max_new_tokens=4)
    next(stream), next(stream)
    assert (model.steps, model.ended) == (2, 0)
    stream.close()
    assert (model.steps, model.ended) == (2, 1)


def test_progress_that_raises_stops_the_engine(model):
    def stop(done: int, _: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moeviz.trace(model, "a", max_new_tokens=4, progress=stop)
    assert (model.steps, model.ended) == (2, 1)


def test_what_the_engine_says_comes_out():
    for run in (moeviz.trace, lambda *args, **how: list(moeviz.stream(*args, **how))):
        failing = MadeUp(fails_at=2)
        with pytest.raises(CaptureError, match="gave up"):
            run(failing, "a", max_new_tokens=4)
        assert failing.ended == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tokenizer": tiny_tokenizer()}, "tokenizer"),
        ({"intervention": Force({0: (1,)})}, "intervention"),
        ({"kernels": True}, "kernels"),
        ({"site": "decoder"}, "site"),
        ({"decoding": moeviz.Decoding(num_beams=2)}, "decoding"),
        ({"decoding": "checkpoint"}, "decoding"),
        ({"next_tokens": True}, "next_tokens"),
        ({"outputs": True}, "outputs"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else given,
)
def test_what_only_a_transformers_model_can_do_is_one_sentence_and_nothing_runs(model, given, words):
    with pytest.raises(CaptureError, match=f"Leave {words} out"):
        moeviz.trace(model, "a", max_new_tokens=1, **given)
    assert not model.asked


@pytest.mark.parametrize("prompts", ["", [], ["a", ""]])
def test_an_empty_prompt_never_reaches_the_engine(model, prompts):
    with pytest.raises(InvalidPrompt):
        moeviz.trace(model, prompts)
    assert not model.asked


def test_a_corpus_is_traced_text_by_text(model):
    labelled = moeviz.trace_corpus(model, [("x", "a b"), ("y", "c d")])
    assert labelled.tokens["label"].tolist() == ["x"] * 5 + ["y"] * 5
    assert [asked.keep_logits for asked in model.asked] == [False, False]


def test_a_backend_that_there_is_not_is_named_with_those_that_there_are():
    with pytest.raises(ModelNotFound, match=", ".join(["transformers", *(engine.name for engine in ENGINES)])):
        engine_of("embedded", "ollama")
    assert engine_of("embedded") is None and engine_of("model.gguf", "transformers") is None
