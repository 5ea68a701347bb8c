"""The edges where a trace, or a what-if, was once wrong without a word: twelve points, each with the test that saw it."""

import pytest
import torch
from foreign import calling, here

import moeviz
from moeviz.capture.record.listen import listen

TEXT = "Il fait froid."


@pytest.fixture(scope="module")
def embedded():
    return moeviz.load_model()


# 1. A checkpoint without one of its weights.

# 2. Answers that are not of this forward: other threads, and hooks of the user's own.


def test_a_thread_that_calls_the_stack_adds_no_layers(embedded):
    model, expected = embedded.model, moeviz.trace(embedded, TEXT)
    ids = embedded.tokenizer(TEXT, return_tensors="pt").input_ids
    with calling(model.model.layers[2], lambda: model.model(ids)) as gave:
        got = moeviz.trace(embedded, TEXT)
    assert gave and got.model.layers == expected.model.layers
    assert got.equals(expected)


def test_a_thread_that_calls_the_model_is_not_recorded(embedded):
    model, expected = embedded.model, moeviz.trace(embedded, TEXT, max_new_tokens=2)
    ids = embedded.tokenizer(TEXT, return_tensors="pt").input_ids
    with listen(model) as recording, calling(model.model, lambda: model(ids + 1)):
        here(lambda: model(ids))
    assert [read.tolist() for read in recording.read] == [ids.tolist()]
    with calling(model.model, lambda: model(ids + 1)):
        assert moeviz.trace(embedded, TEXT, max_new_tokens=2).equals(expected)


def test_a_hook_that_runs_a_block_again_is_refused(embedded):
    block = embedded.model.model.layers[3].mlp
    tokens = len(moeviz.trace(embedded, TEXT).tokens)
    again = torch.linspace(-1, 1, block.gate.weight.shape[1]).expand(1, tokens, -1)
    with calling(block, lambda: block(again), here, after=True), pytest.raises(moeviz.CaptureError, match="again"):
        moeviz.trace(embedded, TEXT)


def test_a_thread_that_calls_a_model_with_an_intervention_gets_what_the_model_gives(embedded):
    model = embedded.model
    ids = embedded.tokenizer(TEXT, return_tensors="pt").input_ids
    expected = here(lambda: model.model(ids).last_hidden_state)
    mute = moeviz.Mute(dict.fromkeys(range(6), (0, 1, 2)))
    with calling(
        model.model.layers[2], lambda: model.model(ids).last_hidden_state, times={1}
    ) as gave:  # 0 is the probe's
        moeviz.trace(embedded, TEXT, intervention=mute)
    assert gave and all(torch.equal(got, expected) for got in gave)


# 3. Interventions on routers that answer in a way of their own.

# 4. Interventions on routers that limit the choice to groups.

# 5. Llama 4 in half precision.

# 6. The checkpoint's own generation settings.

# 7. A token that skips the experts, and a what-if in train mode.

# 8. A table whose rows were sorted.

# 9. A typed U+FFFD, and what is named a share.

# 10. A sentence where a traceback came.

# 11. A small table that names a large expert.

# 12. Invisible characters before a formula.
