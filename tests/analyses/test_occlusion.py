"""Which word decided: against the same prompts run one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import moeviz
from moeviz.analyses import occlusion
from moeviz.analyses.occlusion import AGREE, MOST_TOKENS, NUMBER, compare_filled, filled_prompts, occlude
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.trace import capture
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.routing_trace import normalised_scores

TEXT = "Ich komme mit. 12 + 30"


@pytest.fixture(scope="module")
def embedded():
    return moeviz.load_model()


@pytest.fixture(scope="module")
def found(embedded):
    return occlude(embedded, TEXT)


def one_by_one(model, ids: list[int]):
    """First choices, scores and next-token probabilities of a text by its ids, read alone by hooks of our own."""
    logits, handles = [], []
    for layer in model.model.model.layers:
        handles.append(layer.mlp.gate.register_forward_hook(lambda *given: logits.append(given[2][0].detach())))
    with torch.no_grad():
        output = model.model(torch.tensor([ids])).logits[0]
    for handle in handles:
        handle.remove()
    scores = normalised_scores(torch.stack(logits).numpy(), "softmax")
    return scores.argmax(-1), scores, output.softmax(-1).numpy()


def test_flips_and_falls_are_those_of_the_texts_read_one_by_one(embedded, found):
    ids = found.trace.tokens["token_id"].tolist()
    first, scores, following = one_by_one(embedded, ids)
    fillers = occlusion._fillers(embedded.tokenizer)
    for at in (1, 4, len(ids) - 2):
        others = [one for one in fillers if one != ids[at]][:NUMBER]
        runs = [one_by_one(embedded, [*ids[:at], other, *ids[at + 1 :]]) for other in others]
        later = slice(at + 1, None)
        flips = np.mean([run[0] != first for run in runs], axis=0)
        assert found.flips[:, later, at] == pytest.approx(flips[:, later])
        assert (found.to[:, later, at] == most_of(runs, first)[:, later]).all()
        chosen = first[..., None]
        falls = [np.take_along_axis(scores - run[1], chosen, -1)[..., 0] for run in runs]
        assert found.falls[:, later, at] == pytest.approx(np.mean(falls, axis=0)[:, later], abs=1e-4)
        likeliest = following.argmax(-1)[:, None]
        after = [np.take_along_axis(following - run[2], likeliest, -1)[:, 0] for run in runs]
        assert found.next[later, at] == pytest.approx(np.mean(after, axis=0)[later], abs=1e-4)


def most_of(runs, first):
    """Of the other first choices with each filler, the one that comes most often, the earliest of equals; else -1."""
    most = np.full(first.shape, -1)
    for place in np.ndindex(first.shape):
        others = [run[0][place] for run in runs if run[0][place] != first[place]]
        most[place] = max(others, key=others.count, default=-1)
    return most


def test_only_earlier_tokens_count_and_special_ones_are_never_replaced(found):
    T = len(found.trace.tokens)
    upper = np.triu(np.ones((T, T), bool))
    assert not found.flips[:, upper].any() and not found.falls[:, upper].any() and not found.next[upper].any()
    assert not found.flips[:, :, 0].any(), "the first token is <s>"
    assert found.flips.any() and np.isin(found.flips * NUMBER, range(NUMBER + 1)).all()


def test_deciding_tokens_and_the_sentence_count_what_the_arrays_hold(found):
    rows = found.deciding()
    assert len(rows) == (found.flips >= AGREE / NUMBER).sum() > 0
    assert (rows["decided_by"] < rows["token"]).all()
    decided = len(rows.drop_duplicates(["layer", "token"]))
    assert f"decides {decided} of {found.flips[..., 0].size} first choices" in found.sentence()
    nothing = replace(found, flips=found.flips * 0)
    assert nothing.sentence().startswith("No single earlier token") and nothing.deciding().empty


def test_a_token_that_is_a_filler_is_replaced_by_the_others(embedded, found):
    fillers = occlusion._fillers(embedded.tokenizer)
    assert len(fillers) == NUMBER + 1 and tuple(fillers.values()) == found.fillers
    ids = found.trace.tokens["token_id"].tolist()
    full_stop = found.trace.tokens["text"].tolist().index(".")
    used = [one.token_ids[full_stop] for one in filled_of(embedded, found.trace) if one.at == full_stop]
    assert len(used) == NUMBER and set(used) == set(fillers) - {ids[full_stop]}


def filled_of(model, trace):
    ids = trace.tokens["token_id"].tolist()
    return filled_prompts(ids, list(occlusion._fillers(model.tokenizer)), model.tokenizer.all_special_ids)


def recorded(model, *prompts):
    """By ids alone, as any engine may: no logits over the vocabulary."""
    return capture(model, CaptureRequest((), token_ids=tuple(prompt.token_ids for prompt in prompts)))


def test_the_traces_of_any_engine_are_compared_alike(embedded, found):
    filled = filled_of(embedded, found.trace)
    assert len(filled) == 4 * (len(found.trace.tokens) - 2), "neither <s> nor the last one"
    traces = [recorded(embedded, *filled[:3]), *(recorded(embedded, one) for one in filled[3:])]
    other = compare_filled(found.trace, filled, traces, found.fillers)
    assert (other.flips == found.flips).mean() > 0.999 and (other.to == found.to).mean() > 0.999
    assert other.falls == pytest.approx(found.falls, abs=1e-4) and other.fillers == found.fillers
    later = np.tril(np.ones(found.next.shape, bool), -1) & (np.arange(len(found.next)) > 0)
    assert np.isnan(other.next[later]).all() and not other.next[~later].any()
    bare = [replace(one, logits=None) for one in traces]
    assert np.isnan(compare_filled(found.trace, filled, bare).falls[:, later]).all()


def test_traces_of_anything_else_are_refused(embedded, found):
    filled = filled_of(embedded, found.trace)
    traces = [recorded(embedded, *filled)]
    for wrong, says in (
        ([], "have no trace"),
        (traces * 2, "its layers or tokens are others"),
        ([traces[0].select(layers=[0])], "its layers or tokens are others"),
        ([recorded(embedded, *reversed(filled))], "its token ids are others"),
    ):
        with pytest.raises(CaptureError, match=says):
            compare_filled(found.trace, filled, wrong)
    unknown = traces[0].tokens.assign(token_id=np.int32(-1))
    assert compare_filled(found.trace, filled, [replace(traces[0], tokens=unknown)]).flips.any()


def test_batches_change_nothing(embedded, found, monkeypatch):
    monkeypatch.setattr(occlusion, "TOKENS_AT_ONCE", 1)
    done = []
    alone = occlude(embedded, TEXT, progress=lambda *counts: done.append(counts))
    assert (alone.flips == found.flips).mean() > 0.999 and alone.falls == pytest.approx(found.falls, abs=1e-4)
    assert done[-1] == (len(done), len(done)), "one forward a batch"


def test_a_text_that_would_take_too_many_forwards_is_refused(embedded):
    with pytest.raises(InvalidPrompt, match="512"):
        occlude(embedded, "a " * MOST_TOKENS)


def test_a_model_that_reads_both_ways_is_refused(embedded, monkeypatch):
    """One whose earlier tokens change with later ones, whatever its config says."""
    read = occlusion.read_batch

    def both_ways(run, *rest):
        trace, logits = read(run, *rest)
        return (trace if len(run.batch.input_ids) == 1 else reversed_experts(trace)), logits

    monkeypatch.setattr(occlusion, "read_batch", both_ways)
    with pytest.raises(CaptureError, match="directions"):
        occlude(embedded, TEXT)


def reversed_experts(trace):
    return replace(trace, experts=((trace.experts + 1) % 8).astype(np.int16), weights=None, logits=None)


def test_the_command_prints_the_sentence_and_the_rows(found, capsys):
    from moeviz.cli.main import main

    assert main(["occlude", TEXT]) == 0
    out = capsys.readouterr().out
    assert found.sentence() in out and len(out.splitlines()) == len(found.deciding()) + 2
