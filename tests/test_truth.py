"""The edges where a trace, or a what-if, was once wrong without a word: twelve points, each with the test that saw it."""

# 1. A checkpoint without one of its weights.

# 2. Answers that are not of this forward: other threads, and hooks of the user's own.

# 3. Interventions on routers that answer in a way of their own.

# 4. Interventions on routers that limit the choice to groups.

# 5. Llama 4 in half precision.


def test_llama_4_in_half_precision_has_the_experts_of_its_block_where_scores_are_rounded_to_nothing():
    """Logits of -30 and less: the sigmoid scores of the chosen, and of all others, are 0 in float16."""
    import torch
    from transformers.models.llama4.configuration_llama4 import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4Router

    from moeviz.capture.routers.odd_routers import ODD_ROUTERS

    router = Llama4Router(Llama4TextConfig(hidden_size=8, num_local_experts=8, num_experts_per_tok=2))
    logits = torch.tensor([[-60.0, -50.0, -45.0, -70.0, -25.0, -55.0, -8.0, -65.0], [-32.0, -31.0, *[-40.0] * 6]])
    router.weight = torch.nn.Parameter(torch.diag(torch.ones(8)))
    router, hidden = router.half(), logits.half()
    chosen = {}

    def topk(values, *arguments, **named):
        chosen["ids"] = real(values, *arguments, **named).indices
        return real(values, *arguments, **named)

    real, torch.topk = torch.topk, topk
    try:
        answer = router(hidden)
    finally:
        torch.topk = real
    _logits, weights, experts = ODD_ROUTERS["Llama4Router"].read(router, (hidden,), answer)[:3]
    assert (answer[0] == 0).sum(-1).tolist() == [7, 8]  # or nothing would be rounded away
    assert experts.tolist() == chosen["ids"].tolist() == [[6, 4], [1, 0]]
    assert torch.equal(weights, answer[0].gather(-1, experts))


def test_a_hook_that_changes_the_scores_of_llama_4_is_what_its_experts_receive():
    import torch
    from tiny_models import tiny_tokenizer

    import moeviz
    from moeviz.capture.survey.survey import random_model

    model = random_model("llama4")
    router = model.model.layers[0].feed_forward.router
    router.register_forward_hook(lambda _router, _given, answer: (answer[0].flip(-1), answer[1]))
    received = []
    router.register_forward_hook(lambda _router, _given, answer: received.append(answer[0]))
    trace = moeviz.trace(model, "To be, or not to be", tokenizer=tiny_tokenizer())
    assert [set(row) for row in trace.experts[0].tolist()] == [
        set(torch.nonzero(row).flatten().tolist()) for row in received[-1]
    ]


def test_a_token_of_zaya_that_expert_0_has_with_a_weight_rounded_to_nothing_does_not_skip():
    import torch

    from moeviz.capture.routers.odd_routers import ODD_ROUTERS

    router = torch.nn.Module()
    router.balancing_biases = torch.tensor([2.0, 0.0, 0.0, 0.5])  # the last class skips
    logits = torch.tensor([[-90.0, 0.0, -90.0, 0.0], [0.0, 0.0, 0.0, 0.0]]).half()
    read = ODD_ROUTERS["ZayaRouter"].read
    chosen = logits.softmax(-1).float() + router.balancing_biases
    weights = logits.softmax(-1).gather(-1, chosen.argmax(-1, keepdim=True))
    assert weights[0] == 0  # or nothing would be rounded away
    assert read(router, (), (logits, weights, torch.tensor([[0], [0]]), None))[2].tolist() == [[0], [0]]
    router.balancing_biases = torch.tensor([-1.0, 5.0, 0.0, -1.0])
    rounded = torch.tensor([[0.0, -90.0, -90.0, -90.0]]).half()  # expert 1, chosen by its bias alone
    assert read(router, (), (rounded, torch.zeros(1, 1).half(), torch.tensor([[1]]), None))[2].tolist() == [[1]]
    router.balancing_biases = torch.tensor([-1.0, -1.0, -1.0, 5.0])
    assert read(router, (), (rounded, torch.zeros(1, 1).half(), torch.tensor([[0]]), None))[2].tolist() == [[3]]


def test_a_probability_of_gemma_4_that_is_rounded_to_nothing_is_no_missing_expert():
    """-inf in the logits of a trace says that a layer has no such expert."""
    import torch

    from moeviz.capture.routers.odd_routers import ODD_ROUTERS

    probabilities = torch.tensor([[0.0, 300.0, 0.0]]).softmax(-1)
    answer = (probabilities, torch.tensor([[1.0]]), torch.tensor([[1]]))
    logits = ODD_ROUTERS["Gemma4TextRouter"].read(torch.nn.Module(), (), answer)[0]
    assert (probabilities == 0).sum() == 2 and logits.isfinite().all()
    assert logits.softmax(-1).argmax() == 1


def test_a_stream_takes_the_autocast_of_its_caller_over():
    import torch
    from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

    import moeviz

    model, seen = tiny_model(CONFIGS["mixtral"]), []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        list(moeviz.stream(model, "To be", tokenizer=tiny_tokenizer(), max_new_tokens=2))
    assert seen and all(seen)


# 6. The checkpoint's own generation settings.

# 7. A token that skips the experts, and a what-if in train mode.

# 8. A table whose rows were sorted.

# 9. A typed U+FFFD, and what is named a share.

# 10. A sentence where a traceback came.

# 11. A small table that names a large expert.

# 12. Invisible characters before a formula.
