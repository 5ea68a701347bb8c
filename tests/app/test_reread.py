"""Tokens of a trace read again: with experts muted, or with each earlier token replaced; in line, bounded, and once."""

import threading
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from app_pages import address, sentences, visit, visit_of
from waiting import SECONDS, until

import moeviz
from moeviz.capture.trace import capture
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz_app import settings
from moeviz_app.jobs import model_service, reread
from moeviz_app.jobs.run_request import MOST_MUTED, RunRequest, run_from_query
from moeviz_app.server.identity import TooOften
from moeviz_app.session import recent

TEXT = "Ich komme mit. 12 + 30"
RUN = RunRequest(TEXT, "embedded")
EXPERTS = ((1, 6), (2, 4), (2, 0))
MUTE = moeviz.Mute({1: (6,), 2: (4, 0)})


@pytest.fixture(scope="module")
def model():
    return model_service.model("embedded")


@pytest.fixture(scope="module")
def trace(model):
    return moeviz.trace(model, TEXT, next_tokens=True)


@pytest.fixture(scope="module")
def expected(model):
    return moeviz.what_if(model, TEXT, MUTE)


@pytest.fixture(autouse=True)
def nothing_kept():
    reread.forget()


@pytest.fixture
def held_up():
    """The line of the processor, held up by another's work until the event is set."""
    go, begun = threading.Event(), threading.Event()

    def work(_tell):
        begun.set()
        go.wait(SECONDS)

    heard = model_service._line("cpu").ask(work)
    assert begun.wait(SECONDS)
    yield go
    go.set()
    for _ in heard:
        pass


def is_what_if(found, expected, model):
    """Its routing is that of what_if, ids all; and its likeliest next tokens, p within 1e-4."""
    effect, following = expected.effect, found.next_tokens
    assert (found.experts == expected.changed.experts).all() and following.lens_ids is None
    named = [model.tokenizer.decode([token]) for token in effect["next_token_changed"]]
    assert [following.after(row)[0][0] for row in range(len(named))] == named
    was = [model.tokenizer.decode([token]) for token in effect["next_token"]]
    pairs = [
        (dict(following.after(row)).get(text), p)
        for row, (text, p) in enumerate(zip(was, effect["probability_changed"], strict=True))
    ]
    assert all(abs(got - p) <= 1e-4 for got, p in pairs if got is not None)
    assert sum(got is not None for got, _ in pairs) > len(pairs) / 2


def test_a_muted_trace_is_that_of_what_if_and_so_is_a_run_that_a_link_asks_for(trace, expected, model):
    is_what_if(reread.muted(trace, RUN, EXPERTS), expected, model)
    is_what_if(capture(model, replace(RUN, mute=EXPERTS).request()), expected, model)
    app = visit("", prompt=TEXT, model="embedded", mute="2.4,1.6,2.0")
    assert visit_of(app).trace.equals(trace), "the plain run stands beside the one without experts"
    wanted, _ = visit_of(app).muted
    assert wanted.mute == tuple(sorted(EXPERTS)) and address(app)["mute"] == "1.6,2.0,2.4"


def test_generated_tokens_are_read_again_as_they_are(model):
    written = moeviz.trace(model, "Il fait", max_new_tokens=6)
    found = reread.muted(written, RunRequest("Il fait", "embedded", new_tokens=6), [(3, 0)])
    assert found.tokens.equals(written.tokens) and not (found.experts[3] == 0).any()
    nobody = capture_again(model, written)
    np.testing.assert_allclose(nobody.logits, written.logits, atol=1e-4)
    assert (nobody.experts == written.experts).mean() > 0.99


def capture_again(model, trace):
    from moeviz.capture.trace import read_again

    return read_again(model, trace, RUN.request())


def test_the_same_is_read_once_and_anything_else_anew(trace, monkeypatch):
    first = reread.muted(trace, RUN, EXPERTS)
    with monkeypatch.context() as closed:
        closed.setattr(model_service, "run_on_model", pytest.fail)
        assert reread.muted(trace, replace(RUN, seed=7), [*EXPERTS, EXPERTS[0]]) is first
    other = reread.muted(trace, RUN, EXPERTS[:1])
    assert other is not first and not other.equals(first)


@pytest.mark.parametrize(
    ("experts", "says"),
    [
        ([(9, 0)], "no MoE layer 9"),
        ([(2, 8)], "2.*experts 0.*7.*8"),
        ([(2, expert) for expert in range(7)], "at most 6 can be muted, not 7"),
        ([(2, expert) for expert in range(MOST_MUTED + 1)], f"at most {MOST_MUTED} can be"),
    ],
)
def test_experts_that_cannot_be_muted_are_one_sentence(trace, experts, says):
    with pytest.raises(CaptureError, match=says):
        reread.muted(trace, RUN, experts)


@pytest.mark.parametrize("text", ["", "2", "2.4;1.6", "2.4,", "-1.2", "2.x", "٢.٤", "1.1," * 500 + "1.1", "9999999.0"])
def test_an_address_that_mutes_something_else_is_one_sentence(text):
    with pytest.raises(CaptureError, match=r"mute=2\.4,1\.6"):
        run_from_query({"prompt": "a", "mute": text})


def test_a_wrong_mute_in_a_link_is_told_and_runs_nothing(monkeypatch):
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    app = visit("", prompt=TEXT, model="embedded", mute="<b>")
    assert "The address mutes '<b>'" in sentences(app) and visit_of(app).trace is None and not app.exception


def test_a_kept_trace_whose_file_mutes_nonsense_has_no_run():
    asked = replace(RUN, mute=EXPERTS[:2]).parameters()
    assert recent._run_of_kept(asked) == replace(RUN, mute=EXPERTS[:2])
    assert recent._run_of_kept(asked | {"mute": "<b>"}) is None


def test_a_trace_of_other_tokens_than_the_model_reads_is_refused(trace):
    part = trace.select(tokens=slice(2, None))
    other = replace(trace, tokens=trace.tokens.assign(text=trace.tokens["text"] + "x"))
    unknown = replace(trace, tokens=trace.tokens.assign(token_id=np.int32(-1)))
    for wrong, says in ((part, "not of whole texts"), (unknown, "not of whole texts"), (other, "as another text")):
        with pytest.raises(CaptureError, match=says):
            reread.muted(wrong, RUN, EXPERTS)


def test_muting_counts_as_a_run_and_who_leaves_has_cancelled_it(trace, held_up, monkeypatch):
    with monkeypatch.context() as often:
        often.setattr(model_service, "begin_run", lambda: (_ for _ in ()).throw(TooOften("Too often.")))
        with pytest.raises(TooOften):
            reread.muted(trace, RUN, EXPERTS)
    monkeypatch.setattr("moeviz.capture.trace.read_again", pytest.fail)
    heard = []

    def leave(told):
        heard.append(told.ahead)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reread.muted(trace, RUN, EXPERTS, leave)
    assert heard == [1], "one is before"
    line = model_service._line("cpu")
    assert not [job for jobs in line._line.values() for job in jobs if not job.cancelled.is_set()]


def test_which_word_decided_is_found_in_the_background_and_kept(trace, model):
    expected = moeviz.occlude(model, TEXT)
    assert reread.occlusion_of(trace, RUN) is None
    job = reread.begin_occlusion(trace, RUN)
    (found,) = until(lambda: job.found)
    assert reread.occlusion_of(trace, RUN) is found
    for name in ("flips", "falls", "next", "to"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    again = reread.begin_occlusion(trace, RUN)
    assert until(lambda: again.found)[0] is found


def test_its_cost_is_told_before_and_bounded(trace, monkeypatch):
    assert reread.occlusion_forwards(trace) == 4 * (len(trace.tokens) - 1)
    two = moeviz.trace("embedded", ["a b", "c d"])
    with pytest.raises(InvalidPrompt, match="text"):
        reread.begin_occlusion(two, RUN)
    small = replace(settings.SETTINGS, max_corpus_chars=4 * (len(trace.tokens) - 1) * len(trace.tokens) - 1)
    monkeypatch.setattr(settings, "SETTINGS", small)
    with pytest.raises(InvalidPrompt, match=f"these {len(trace.tokens)} tokens {4 * (len(trace.tokens) - 1)} times"):
        reread.begin_occlusion(trace, RUN)


def test_it_tells_how_far_it_is_gives_its_turn_away_and_stops(trace, monkeypatch):
    from moeviz.analyses import occlusion

    monkeypatch.setattr(occlusion, "TOKENS_AT_ONCE", 1)
    read, going = [], threading.Event()
    own = occlusion.read_batch

    def slow(*given):
        read.append(1)
        if len(read) == 3:
            going.wait(SECONDS)
        return own(*given)

    monkeypatch.setattr(occlusion, "read_batch", slow)
    job = reread.begin_occlusion(trace, RUN)
    until(lambda: job.news == (1, 4 * (len(trace.tokens) - 2)))  # <s> is never replaced
    job.stop()
    going.set()
    assert moeviz_line_is_at_rest() and job.found is None and len(read) < 10
    assert reread.occlusion_of(trace, RUN) is None


def moeviz_line_is_at_rest():
    return model_service._line("cpu")._resting.wait(SECONDS)


def test_a_browser_gets_the_same_in_small_numbers(trace, model):
    found = moeviz.occlude(model, TEXT)
    sent = reread.compact(found)
    shape = (sent["layers"], sent["tokens"], sent["tokens"])
    flips, falls, to = (
        np.frombuffer(b64decode(sent[name]), kind).reshape(shape)
        for name, kind in (("flips", "u1"), ("falls", "<i2"), ("to", "u1"))
    )
    assert (flips == found.flips * 4).all() and np.abs(falls / 1000 - found.falls).max() <= 0.0005 + 1e-7
    assert (to == np.where(found.to < 0, 255, found.to)).all()
    assert ((flips > 0) == (to < 255)).all()
    wide = replace(found.trace.model, num_experts=(256,) * 6)
    many = replace(found, trace=replace(found.trace, model=wide, logits=None), falls=found.falls * np.float32("nan"))
    sent = reread.compact(many)
    assert sent["wide"] and (np.frombuffer(b64decode(sent["falls"]), "<i2") == -(2**15)).all()
    assert np.frombuffer(b64decode(sent["to"]), "<u2").max() == 2**16 - 1


def test_the_parts_of_a_choice_are_those_of_the_library_and_read_once(trace, model, monkeypatch):
    expected = moeviz.direct_attribution(model, TEXT, 3)
    found = reread.attributed(trace, RUN, 3)
    pd.testing.assert_frame_equal(found, expected[expected["slot"] >= 0].reset_index(drop=True))
    with monkeypatch.context() as closed:
        closed.setattr(model_service, "run_on_model", pytest.fail)
        assert reread.attributed(trace, replace(RUN, seed=7, mute=EXPERTS), 3) is found
    other = replace(trace, tokens=trace.tokens.assign(text=trace.tokens["text"] + "x"))
    with pytest.raises(CaptureError, match="text"):
        reread.attributed(other, RUN, 4)
    with pytest.raises(InvalidPrompt, match=r"\b2\b"):
        reread.attributed(moeviz.trace("embedded", ["a b", "c d"]), RUN, 0)


def test_a_refused_split_is_said_once_and_asked_again_by_a_press(monkeypatch):
    asked = []

    def refuse(*_given):
        asked.append(1)
        raise CaptureError("The router logits of X cannot be split into parts.")

    monkeypatch.setattr(reread, "attributed", refuse)
    app = visit("", prompt=TEXT, model="embedded", layer="2", token="3")
    of = visit_of(app)
    of.direct = (of.trace, 3)
    assert "cannot be split" in sentences(app.run()) and asked == [1]
    assert of.direct is None and "cannot be split" not in sentences(app.run()) and asked == [1]
