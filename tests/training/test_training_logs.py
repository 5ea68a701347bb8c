"""What a log of a run in training says, of which steps, and who is given it."""

import numpy as np
import pytest
import torch
from training_runs import TOKENIZER, collate, probe, recount, tiny, trainer_of, windows
from transformers import TrainerCallback

from moeviz.training import RoutingCallback, RoutingHealth, read_run
from moeviz.training.router_hooks import Counters


def violation(counts):
    """MaxVio of each layer."""
    return counts.max(axis=-1) / counts.mean(axis=-1) - 1


def test_figures_of_a_log_are_of_the_sums_of_its_steps_and_no_mean_of_ratios(tmp_path):
    rows, batches, outputs = windows(count=24, ragged=True), [], []
    model = tiny().train()
    with RoutingHealth(model, tmp_path / "run") as health:
        for size in (12, 8, 4):  # steps of different lengths, of two micro-batches each
            for _ in range(2):
                batches.append(collate([rows.pop() for _ in range(size // 2)]))
                outputs.append(model(**batches[-1]))
                outputs[-1].loss.backward()
            health.step()
        health.report()
    run, plain = read_run(tmp_path / "run"), tiny()
    counts = np.array([recount(plain, batch).numpy() for batch in batches])
    np.testing.assert_array_equal(run.counts[0], counts.sum(axis=0))
    np.testing.assert_allclose(run.layers["max_violation"], violation(counts.sum(axis=0)))
    assert not np.allclose(run.layers["max_violation"], violation(counts).mean(axis=0), rtol=0.02)  # the control
    assert run.logs["aux_loss"].item() == pytest.approx(np.mean([output.aux_loss.item() for output in outputs]))
    p = [
        output.router_logits[1].softmax(-1)[batch["attention_mask"].flatten() > 0]
        for output, batch in zip(outputs, batches, strict=True)
    ]
    np.testing.assert_allclose(run.importance[0, 1], torch.cat(p).mean(0).detach(), rtol=2e-3)


def test_many_steps_without_a_log_are_put_together_and_none_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("moeviz.training.routing_health.MOST_STEPS", 2)
    batch, model, most = collate(windows(count=2)), tiny().train(), []
    with RoutingHealth(model, tmp_path / "run") as health:
        for _ in range(5):
            model(**batch)
            health.step()
            most.append(len(health._window))
        health.report()
    run = read_run(tmp_path / "run")
    assert most == [1, 0, 1, 0, 1] and run.logs["steps"].tolist() == [5]
    np.testing.assert_array_equal(run.counts[0], 5 * recount(tiny(), batch))


def test_an_empty_slot_is_nobodys_and_its_token_counts_all_the_same():
    counters = Counters([3], torch.device("cpu"))
    experts, logits = torch.tensor([[0, -1], [-1, -1], [2, 1]]), torch.zeros(3, 3)
    counters.add(0, experts, logits, torch.tensor([True, True, False]), "softmax")
    assert counters.counts.tolist() == [[1, 0, 0, 2]]
    assert counters.sums[0, -3].item() == pytest.approx(1 / 3)  # mass of the one that was chosen


class Tracker(TrainerCallback):
    """As those of report_to: it is given the logs, and stands before what the user gives."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append(dict(logs))


def test_a_tracker_that_stood_before_gets_the_figures_as_plain_numbers(tmp_path):
    tracker = Tracker()
    trainer_of(
        tiny(), windows(), tmp_path, tracker, RoutingCallback(), max_steps=2, gradient_accumulation_steps=1
    ).train()
    with_loss = [log for log in tracker.logs if "loss" in log]
    assert len(with_loss) == 2 and [log["moe/tokens"] for log in with_loss] == [256, 512]
    assert {type(value) for log in with_loss for name, value in log.items() if name.startswith("moe/")} == {float}


def test_what_comes_after_the_last_log_is_written_too(tmp_path):
    options = {"max_steps": 3, "logging_steps": 2, "gradient_accumulation_steps": 1}
    trainer_of(tiny(), windows(), tmp_path, RoutingCallback(tmp_path / "run"), **options).train()
    run = read_run(tmp_path / "run")
    assert run.logs[["step", "steps", "tokens"]].values.tolist() == [[2, 2, 512], [3, 1, 768]]


@pytest.mark.parametrize("stop", [True, False])
def test_a_run_ends_on_an_alarm_where_it_is_asked_to(stop, tmp_path):
    model = tiny(output_router_logits=False)  # the aux loss is off
    options = {"max_steps": 3, "gradient_accumulation_steps": 1}
    trainer = trainer_of(model, windows(), tmp_path, RoutingCallback(tmp_path / "run", stop=stop), **options)
    trainer.train()
    assert trainer.state.global_step == (1 if stop else 3)
    assert read_run(tmp_path / "run").alarms["kind"].tolist() == ["aux_off"]


@pytest.mark.parametrize(("micro_batches", "effective"), [(4, 0.08), (1, None)])
def test_what_the_aux_loss_really_counts_is_said_where_it_is_other_than_configured(micro_batches, effective, tmp_path):
    options = {"max_steps": 1, "gradient_accumulation_steps": micro_batches}
    trainer_of(tiny(), windows(), tmp_path, RoutingCallback(tmp_path / "run"), **options).train()
    facts = read_run(tmp_path / "run").facts
    assert (facts.aux_coefficient, facts.aux_effective) == (0.02, effective)
    assert any("acts as 0.08" in said for said in facts.said) == (effective is not None)


def test_gradients_are_those_of_the_step_and_experts_without_any_are_counted():
    model, batch = tiny().train(), {"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[5, 6]])}
    with RoutingHealth(model, detail="layers") as health:
        model(**batch).loss.backward()
        health.gradients()
        health.step()
        found = health.report()
    for layer, block in enumerate(model.model.layers):
        assert found[f"moe/router_grad_norm/layer_{layer}"] == pytest.approx(float(block.mlp.gate.weight.grad.norm()))
        idle = [not block.mlp.experts.down_proj.grad[expert].any() for expert in range(8)]
        assert found[f"moe/experts_without_grad/layer_{layer}"] == sum(idle) >= 8 - 2 * 2


def test_closed_it_leaves_the_model_as_it_was():
    model, batch = tiny().train(), collate(windows(count=2))
    model(**batch)  # transformers listens too, from its first forward on
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()]
    with RoutingHealth(model) as health:
        assert hooks != [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()]
    model(**batch)
    assert hooks == [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()]
    assert not health.recorder.counters["train"].counts.any()


def test_after_a_snapshot_modes_random_state_and_gradients_are_as_before(tmp_path):
    model = tiny(attention_dropout=0.1).train()
    model.model.layers[1].eval()  # as a user may want it
    modes, state = [part.training for part in model.modules()], torch.get_rng_state()
    with RoutingHealth(model, tmp_path / "run") as health, torch.autocast("cpu", torch.bfloat16):
        health.snapshot(TOKENIZER, probe(2))
        assert torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    assert modes == [part.training for part in model.modules()]
    assert torch.equal(state, torch.get_rng_state())
