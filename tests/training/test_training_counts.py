"""What is counted while a model trains: each real token once, whatever else goes on, and nothing is disturbed."""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from survey.mechanisms import each
from survey.tiny_models import text_model, tiny_config
from training_runs import TOKENIZER, collate, probe, recount, tiny, trainer_of, windows
from transformers import DynamicCache

from moeviz.errors import InvalidTrace
from moeviz.training import RoutingCallback, RoutingHealth, read_run

CHECKPOINTS = {"none": None, "reentrant": True, "not reentrant": False}
# Families whose routers do not each answer once for every token: what is counted is right, and is no k x tokens.
NOT_TIMES_K = {"nllb_moe": "drops over capacity", "switch_transformers": "drops over capacity"}


def checkpointed(reentrant):
    if reentrant is None:
        return {}
    return {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": reentrant}}


def language_loss(model, batches):
    """The cross-entropy of a step, a mean over the tokens of all its micro-batches."""
    sums, tokens = 0.0, 0
    for batch in batches:
        with torch.no_grad():
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        sums += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum", ignore_index=-100
        )
        tokens += (batch["labels"][:, 1:] != -100).sum()
    return float(sums / tokens)


@pytest.mark.parametrize("reentrant", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_counts_are_those_of_the_logits_under_accumulation_checkpoints_ragged_batches_and_evaluation(
    reentrant, tmp_path
):
    rows, seen = windows(ragged=True), []
    callback = RoutingCallback(tmp_path / "run")
    trainer = trainer_of(
        tiny(),
        rows,
        tmp_path,
        callback,
        seen=seen,
        learning_rate=0.0,  # so that a recount with the first weights is the truth
        evaluate=rows[:8],
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=8,
        **checkpointed(reentrant),
    )
    trainer.train()
    plain, trained = tiny(), [batch for batch in seen if len(batch["input_ids"]) == 4][:12]
    truth = torch.stack([sum(recount(plain, batch) for batch in trained[i : i + 4]) for i in range(0, 12, 4)])
    run = read_run(tmp_path / "run")
    np.testing.assert_array_equal(run.counts, truth)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in trained)
    assert run.logs["tokens"].iloc[-1] == tokens
    np.testing.assert_allclose(
        run.logs["loss"] - run.logs["aux_in_loss"],
        [language_loss(plain, trained[i : i + 4]) for i in range(0, 12, 4)],
        rtol=1e-4,
    )
    evaluated = run.evaluations.query("step == 3")
    assert evaluated["tokens"].tolist() == [sum(map(len, rows[:8]))] * 3  # of each layer
    # The control: with padding among them, the counts would be others.
    padded = sum(recount(plain, batch, keep=slice(None)) for batch in trained)
    assert (padded.numpy() != run.counts.sum(axis=0)).any()


def test_without_the_question_whether_autograd_runs_a_checkpointed_model_is_counted_twice(monkeypatch):
    """The control of what keeps recomputation out: a whole model inside a checkpoint."""
    batch, seen = collate(windows(count=2)), []
    for blind in (False, True):
        if blind:
            monkeypatch.setattr("moeviz.training.router_hooks.backwards", lambda: False)
        model = tiny().train()
        with RoutingHealth(model) as health:
            torch.utils.checkpoint.checkpoint(model, **batch, use_reentrant=False).loss.backward()
            health.step()
            seen.append(health.report()["moe/tokens"])
    assert seen == [128, 256]


def test_tokens_that_are_trained_are_those_before_a_label():
    batch = collate(windows(count=4, ragged=True))
    batch["labels"][:, :9] = -100  # a prompt
    before_a_label = torch.zeros_like(batch["labels"], dtype=torch.bool)
    before_a_label[:, :-1] = batch["labels"][:, 1:] != -100
    truth = {"real": batch["attention_mask"] > 0, "trained": before_a_label}
    assert truth["real"].sum() > truth["trained"].sum() + 4 * 8
    for tokens, keep in truth.items():
        model = tiny().train()
        with RoutingHealth(model, tokens=tokens) as health:
            model(**batch).loss.backward()
            health.step()
            health.settle()
            np.testing.assert_array_equal(health._settled.counts[:, :-1], recount(tiny(), batch, keep.flatten()))
            assert health.report()["moe/tokens"] == keep.sum()


def test_evaluation_generation_reference_forwards_and_snapshots_are_not_training():
    batch, model = collate(windows(count=4, ragged=True)), tiny()
    health = RoutingHealth(model)
    with torch.no_grad():
        model.eval()(**batch)
        model.train()(**batch)  # reference log-probabilities: training mode, no gradient
        model.eval().generate(batch["input_ids"][:1, :5], max_new_tokens=5, do_sample=False, pad_token_id=0)
    before = health.recorder.counters["eval"].counts.clone()
    trace = health.snapshot(TOKENIZER, probe())
    assert torch.equal(before, health.recorder.counters["eval"].counts) and not health.recorder.now.muted
    assert set(trace.tokens["label"]) == {label for label, _ in probe()}
    health.step()
    assert health.report()["moe/tokens"] == 0
    assert health.evaluation()["eval_moe/max_violation/mean"] > 0
    np.testing.assert_array_equal(before[:, :-1], recount(tiny(), batch))
    assert health.evaluation() == {}  # counted anew


def test_a_deep_copy_of_a_watched_model_is_another_model():
    """An average of weights, or a reference: it carries the hooks of what it is a copy of."""
    batch, model = collate(windows(count=2)), tiny().train()
    with RoutingHealth(model) as health:
        other = copy.deepcopy(model)
        other(**batch).loss.backward()
        with torch.no_grad():
            other.eval()(**batch)
        health.step()
        assert health.report()["moe/tokens"] == 0 and health.evaluation() == {}
        assert "the model did not run" in health.said[-1]


def by_hand(model, batch):
    hidden = model.model.embed_tokens(batch["input_ids"])
    model.model.layers[0].mlp(hidden).sum().backward()


def without_gradient(model, batch):
    with torch.no_grad():
        model(**batch)


NOTHING = {
    "was in evaluation mode": lambda model, batch: model.eval()(**batch).loss.backward(),
    "were given a cache": lambda model, batch: model(**batch, cache=DynamicCache()).loss.backward(),
    "ran outside of a forward of the model": by_hand,
    "ran only without gradients": without_gradient,
    "did not run": lambda model, batch: None,
    "leave out every one": lambda model, batch: model(**batch | {"attention_mask": 0 * batch["input_ids"]}),
}


@pytest.mark.parametrize("why", NOTHING)
def test_a_step_in_which_nothing_was_counted_says_why(why):
    model, batch = tiny().train(), collate(windows(count=2))
    with RoutingHealth(model) as health:
        model(**batch).loss.backward()
        health.step()
        health.report()
        assert health.said == []
        NOTHING[why](model, batch)
        health.step()
        model.train()(**batch).loss.backward()
        health.step()
        assert health.report()["moe/tokens"] == 256
        assert len(health.said) == 1 and "In a step, no token was counted: " in health.said[0] and why in health.said[0]


def test_a_mask_of_four_dimensions_does_not_say_what_is_padding():
    batch = collate(windows(count=2, ragged=True))
    size = batch["input_ids"].shape[1]
    seen = (batch["attention_mask"][:, None, None, :] > 0) & torch.ones(size, size, dtype=torch.bool).tril()
    with RoutingHealth(tiny(output_router_logits=False).train()) as health:
        health.base(**batch | {"attention_mask": seen}).loss.backward()
        health.step()
        assert health.report()["moe/tokens"] == batch["input_ids"].numel()
        assert "padding may be counted" in health.said[-1]


def fails(*_given, **_named):
    raise RuntimeError("it broke")


@pytest.mark.parametrize(
    "part", ["check_layout", "RouterRecorder._mask_of_tokens", "RouterRecorder._leave", "RouterRecorder.count"]
)
def test_what_goes_wrong_in_a_hook_is_said_and_the_training_goes_on(part, monkeypatch):
    monkeypatch.setattr(f"moeviz.training.router_hooks.{part}", fails)
    model, batch = tiny().train(), collate(windows(count=2))
    with RoutingHealth(model) as health:
        loss = model(**batch).loss
        loss.backward()
        health.step()
        health.report()
        assert any("moeviz failed (RuntimeError: it broke). The training goes on" in said for said in health.said)
    assert torch.equal(loss, tiny().train()(**batch).loss)


@pytest.mark.parametrize("part", ["step", "gradients", "settle", "report", "evaluation", "snapshot"])
def test_what_goes_wrong_in_an_event_of_a_trainer_is_said_and_the_training_goes_on(part, tmp_path, monkeypatch):
    rows, callback = windows(), RoutingCallback(tmp_path / "run", probe=probe(2))
    trainer = trainer_of(
        tiny(), rows, tmp_path, callback, evaluate=rows[:4], eval_strategy="steps", eval_steps=1, max_steps=2
    )
    own = RoutingCallback.on_train_begin

    def begin(self, *given, **named):
        own(self, *given, **named)
        setattr(self.health, part, fails)

    monkeypatch.setattr(RoutingCallback, "on_train_begin", begin)
    trainer.train()
    assert trainer.state.global_step == 2
    assert [said for said in callback.health.said if "moeviz failed (RuntimeError: it broke)" in said]


def test_a_forward_that_fails_leaves_no_phase_behind():
    model, batch = tiny().train(), collate(windows(count=2))
    with RoutingHealth(model) as health:
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 4), 10**6), attention_mask=torch.ones(1, 4, dtype=torch.long))
        with torch.no_grad():
            model(**batch)
        health.step()
        assert health.report()["moe/tokens"] == 0


def test_a_mask_that_does_not_fit_is_not_guessed_at_and_that_is_said():
    model, batch = tiny().train(), collate(windows(count=2))
    with RoutingHealth(model) as health:
        health.recorder._mask_of_tokens = lambda _given: torch.ones(5, dtype=torch.bool)
        model(**batch).loss.backward()
        health.step()
        assert health.report()["moe/tokens"] == 128
        assert "does not fit the rows" in health.said[-1]


def test_losses_and_weights_are_the_same_bits_with_and_without(tmp_path):
    rows, ends = windows(ragged=True), []
    watched = RoutingCallback(tmp_path / "run", probe=probe(), snapshot_steps=1, detail="layers")
    for callback in ([], [watched]):
        model = tiny(attention_dropout=0.1, router_jitter_noise=0.01)
        options = {"max_steps": 4, "evaluate": rows[:8], "eval_strategy": "steps", "eval_steps": 2}
        trainer = trainer_of(model, rows, tmp_path, *callback, **options)
        trainer.train()
        ends.append(([log["loss"] for log in trainer.state.log_history if "loss" in log], model.state_dict()))
    assert ends[0][0] == ends[1][0] and len(ends[0][0]) == 4
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])
    assert len(read_run(tmp_path / "run").snapshots) == 5


def test_bfloat16_and_checkpoints_count_each_slot_once(tmp_path):
    seen = []
    options = {"bf16": True, "max_steps": 1} | checkpointed(False)
    trainer_of(tiny(), windows(ragged=True), tmp_path, RoutingCallback(tmp_path / "run"), seen=seen, **options).train()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in seen[:4])
    assert (read_run(tmp_path / "run").counts.sum(axis=-1) == 2 * tokens).all()


def test_a_loop_of_ones_own_and_that_of_accelerate_count_the_tokens_of_their_data(tmp_path):
    from accelerate import Accelerator

    rows = windows(count=16, ragged=True)
    for kind in ("plain", "accelerate"):
        model = tiny()
        health = RoutingHealth(model, tmp_path / kind)
        optimizer, run = torch.optim.SGD(model.parameters(), 0.1), model
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2) if kind == "accelerate" else None
        if accelerator:
            run, optimizer = accelerator.prepare(model, optimizer)
        for start in range(0, 16, 8):
            for part in (rows[start : start + 4], rows[start + 4 : start + 8]):
                loss = run(**collate(part)).loss
                accelerator.backward(loss) if accelerator else (loss / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
            health.step()
        assert health.report(loss)["moe/tokens"] == sum(map(len, rows))
        health.close()
        assert read_run(tmp_path / kind).logs["steps"].tolist() == [2]


def test_figures_are_of_the_sums_and_those_that_metrics_give_of_a_trace():
    """One batch without padding, beside the library's own metrics of a trace of the same text."""
    import moeviz
    from moeviz.metrics.confidence import router_entropy
    from moeviz.metrics.load import balance, importance
    from moeviz.metrics.losses import aux_loss, z_loss

    loaded = moeviz.load_model()
    text = "Il fait froid à Paris, und heute ist es auch in Berlin kalt."
    trace = moeviz.trace(loaded, text)
    batch = {"input_ids": torch.tensor([trace.tokens["token_id"].tolist()])}
    model = loaded.model.train()
    try:
        with RoutingHealth(model, detail="layers") as health:
            model(**batch, use_cache=False).logits.sum().backward()
            health.step()
            found = health.report()
            rows = health.recorder.layers
    finally:
        model.eval()
        model.zero_grad()
    assert rows == trace.model.layers

    def layers(name):
        return [found[f"moe/{name}/layer_{layer}"] for layer in rows]

    np.testing.assert_allclose(layers("max_violation"), balance(trace)["max_violation"])
    np.testing.assert_allclose(layers("normalised_entropy"), balance(trace)["normalised_entropy"])
    np.testing.assert_allclose(layers("z_loss"), z_loss(trace)["z_loss"], rtol=1e-4)
    np.testing.assert_allclose(layers("aux"), aux_loss(trace)["switch"], rtol=1e-4)
    entropy = router_entropy(trace).groupby("layer")["share"].mean()
    np.testing.assert_allclose(layers("router_entropy"), entropy, rtol=1e-4)
    chosen = np.take_along_axis(trace.probabilities(""), trace.experts.astype(int), -1).sum(-1).mean(-1)
    np.testing.assert_allclose(layers("mass"), chosen, rtol=1e-4)
    assert importance(trace)["importance"].between(0, 1).all()


@pytest.mark.parametrize("architecture", each())
def test_every_family_goes_through_a_step_of_training(architecture):
    torch.manual_seed(0)
    config = tiny_config(architecture)
    if architecture == "nllb_moe":
        config.encoder_layerdrop = config.decoder_layerdrop = 0.0  # else a layer may not run at all
    model = text_model(architecture)(config).float().train()
    with suppress(ValueError):  # transformers has no checkpoints for it
        model.activation_checkpointing_enable({"use_reentrant": False})
    ids, mask = torch.randint(5, 500, (2, 24)), torch.ones(2, 24, dtype=torch.long)
    mask[0, 17:] = 0
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with RoutingHealth(model) as health:
        output = model(input_ids=ids, attention_mask=mask, use_cache=False, **more)
        parts = (output.get("logits"), output.get("last_hidden_state"))
        sum(part.float().sum() for part in parts if part is not None).backward()
        health.step()
        health.settle()
        counts = health._settled.counts
        assert not health.recorder.unmasked
        assert (counts[:, -1] == int(mask.sum())).all()
        assigned = counts[:, :-1].sum(axis=1)
        if architecture in NOT_TIMES_K:
            assert (assigned <= 2 * int(mask.sum())).all() and (assigned > 0).all()
        else:
            top_k = max(router.top_k for router in health.routers)
            np.testing.assert_array_equal(assigned, top_k * int(mask.sum()))
        figures = health.report()
        assert figures["moe/tokens"] == int(mask.sum()) and health.said == []


def test_an_unknown_way_of_counting_is_refused_in_a_sentence():
    with pytest.raises(InvalidTrace, match=r"'real'.*'trained'"):
        RoutingHealth(tiny(), tokens="all")
