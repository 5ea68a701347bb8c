"""Routing health in other people's trainers: on several ranks, adapted, compiled, resumed, and in their trackers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_ranks
from training_runs import TOKENIZER, collate, probe, recount, tiny, trainer_of, windows
from transformers import MixtralForCausalLM

import moeviz
from moeviz.capture.models.parameters import count_parameters
from moeviz.capture.routers.discovery import find_routers
from moeviz.metrics.routing_over_training import saturation_over_training
from moeviz.training import RoutingCallback, RoutingHealth, Rules, read_run, watch

SUPPORT = Path(__file__).parents[1] / "support"
ADAPTERS = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "experts' parameters": {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
    "the router's parameter": {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]},
    "modules_to_save, the router": {"target_modules": ["q_proj"], "modules_to_save": ["gate"]},
    "modules_to_save, the block": {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
}


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def adapted(model, kind):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM", **ADAPTERS[kind]))


# --- several ranks


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_are_one_process_in_every_figure(tmp_path):
    alone = training_ranks.trained(tmp_path / "1", world=1)
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(SUPPORT.parents[1]), str(SUPPORT), environment.get("PYTHONPATH", "")]
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(SUPPORT / "training_ranks.py"), str(tmp_path / "2")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stderr[-3000:]
    one, two = (read_run(tmp_path / str(ranks) / "run") for ranks in (1, 2))
    assert len(one.logs) == 4 and (one.logs["tokens"].diff().dropna() > 0).all()
    np.testing.assert_array_equal(one.counts, two.counts)
    np.testing.assert_array_equal(one.logs["tokens"], two.logs["tokens"])
    for name in one.layers.columns:
        np.testing.assert_allclose(one.layers[name], two.layers[name], rtol=2e-4, err_msg=name)
    exact = ["max_violation", "normalised_entropy", "tokens", "assignments", "dead"]
    np.testing.assert_array_equal(one.layers[exact], two.layers[exact])
    both = torch.load(tmp_path / "2" / "weights.pt", weights_only=True)
    assert all(torch.allclose(alone[name], both[name], atol=1e-6) for name in alone)


# --- adapters


@needs("peft")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapted_models_are_counted_and_traced(kind, tmp_path):
    rows, seen = windows(ragged=True), []
    model = adapted(tiny(), kind)
    options = {"max_steps": 1, "activation_checkpointing": True}
    options["activation_checkpointing_kwargs"] = {"use_reentrant": False}
    callback = RoutingCallback(tmp_path / "run", probe=probe(2))
    trainer_of(model, rows, tmp_path, callback, seen=seen, **options).train()
    run = read_run(tmp_path / "run")
    truth = sum(recount(tiny(), batch) for batch in seen[:4])  # adapters begin as nothing
    np.testing.assert_array_equal(run.counts[0], truth)
    grown = run.layers["router_grad_norm"].notna().all()
    assert grown == ("router" in kind or "block" in kind)
    assert any("routers are frozen" in said for said in run.facts.said) != grown
    assert sorted(run.snapshots) == [0, int(run.logs["tokens"].iloc[0])]


@needs("peft")
@pytest.mark.filterwarnings("ignore")
def test_gradients_of_adapters_of_fused_experts_are_told_by_expert_and_none_at_all_is_said():
    """A last token has no label after it, so experts that it alone chose have no gradient."""
    ids = torch.tensor([windows(length=3)[0]])
    batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    idle = (recount(tiny(), batch, keep=torch.tensor([True, True, False])) == 0).sum(axis=1)
    model = adapted(tiny(output_router_logits=False), "experts' parameters").train()  # an aux loss reads all tokens
    with RoutingHealth(model, detail="layers") as health:
        for gone, expected in ((False, idle.tolist()), (True, [8, 8, 8])):
            model.zero_grad()
            model(**batch).loss.backward()
            for name, parameter in model.named_parameters() if gone else ():
                if "experts" in name:
                    parameter.grad = None
            health.gradients()
            health.step()
            found = health.report()
            assert [found[f"moe/experts_without_grad/layer_{layer}"] for layer in range(3)] == expected
            assert any("No expert of layers 0, 1 and 2 had a gradient" in said for said in health.said) == gone
    assert idle.min() > 0 and idle.max() < 8


@needs("peft")
@pytest.mark.filterwarnings("ignore")
def test_of_two_copies_of_a_router_the_one_that_runs_is_traced():
    model, text = adapted(tiny(), "modules_to_save, the router"), "Il fait froid à Paris."
    plain = moeviz.trace(tiny(), text, tokenizer=TOKENIZER)
    assert (moeviz.trace(model, text, tokenizer=TOKENIZER).experts == plain.experts).all()
    with torch.no_grad():
        for router in find_routers(model.get_base_model()):
            assert router.path.endswith("gate.modules_to_save.default")
            router.module.weight.normal_(generator=torch.Generator().manual_seed(1))
    assert (moeviz.trace(model, text, tokenizer=TOKENIZER).experts != plain.experts).any()
    with model.disable_adapter():
        assert (moeviz.trace(model, text, tokenizer=TOKENIZER).experts == plain.experts).all()
    whole = count_parameters(model.get_base_model())
    assert whole.routers == count_parameters(tiny()).routers  # the copy that sleeps does not count
    assert len(find_routers(model.get_base_model())) == 3


@needs("peft")
@pytest.mark.filterwarnings("ignore")
def test_routers_that_another_adapter_takes_the_place_of_are_said():
    from peft import LoraConfig

    model, batch = adapted(tiny(), "modules_to_save, the router"), collate(windows(count=2))
    model.add_adapter("other", LoraConfig(r=4, task_type="CAUSAL_LM", **ADAPTERS["modules_to_save, the router"]))
    with RoutingHealth(model.train()) as health:
        model.set_adapter("other")
        model(**batch).loss.backward()
        health.step()
        health.report()
        assert "answered in none of its forwards" in health.said[-1]


# --- compiled


def broken(model, batch, how, watched):
    """Graph breaks of a step, and what was counted."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for part in [model] if how == "in place" else model.model.layers:
        part.compile(backend="aot_eager")
    health = RoutingHealth(model) if watched else None
    model(**batch).loss.backward()
    counts = None
    if health:
        health.step()
        health.settle()
        counts = health._settled.counts[:, :-1]
        health.close()
    return sum(torch._dynamo.utils.counters["graph_break"].values()), counts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("how", "checkpoints"), [("in place", None), ("by layer", False)])
def test_compiled_models_are_counted_without_more_graph_breaks(how, checkpoints):
    batch, found = collate(windows(count=4, ragged=True)), {}
    truth = recount(tiny(), batch)
    for watched in (False, True):
        model = tiny().train()
        if checkpoints is not None:
            model.activation_checkpointing_enable({"use_reentrant": checkpoints})
        found[watched], counts = broken(model, batch, how, watched)
    torch._dynamo.reset()
    np.testing.assert_array_equal(counts, truth)
    assert found[True] <= found[False]


# --- trackers, snapshots, resumption


@needs("tensorboard")
@pytest.mark.parametrize("way", ["watch", "callbacks"])
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_gets_what_the_history_has_and_is_read_back(way, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    callbacks = [RoutingCallback(tmp_path / "run", detail="layers")] if way == "callbacks" else []
    trainer = trainer_of(tiny(), windows(ragged=True), tmp_path, *callbacks, report_to=["tensorboard"])
    if way == "watch":
        watch(trainer, tmp_path / "run", detail="layers")
    trainer.train()
    run, events = read_run(tmp_path / "run"), read_run(tmp_path / "events")
    assert events.facts.source == "tensorboard" and events.logs["step"].tolist() == [1, 2, 3]
    history = {log["step"]: log for log in trainer.state.log_history if "moe/tokens" in log}
    assert [history[step]["moe/tokens"] for step in (1, 2, 3)] == run.logs["tokens"].tolist()
    for name in ("tokens", "loss", "aux_loss", "aux_coefficient"):
        np.testing.assert_allclose(events.logs[name], run.logs[name], rtol=1e-6)
    for name in ("max_violation", "normalised_entropy", "router_entropy", "z_loss", "aux", "logit_rms", "mass"):
        np.testing.assert_array_equal(events.layers[name].astype(np.float32), run.layers[name].astype(np.float32))
    mine, theirs = (
        frame.sort_values(["figure", "step"]).reset_index(drop=True) for frame in (run.summary, events.summary)
    )
    np.testing.assert_array_equal(mine["worst"].astype(np.float32), theirs["worst"].astype(np.float32))


def test_few_keys_by_default(tmp_path):
    trainer = trainer_of(tiny(num_hidden_layers=3), windows(), tmp_path, RoutingCallback(), max_steps=1)
    trainer.train()
    keys = [name for name in trainer.state.log_history[0] if name.startswith("moe/")]
    assert 15 <= len(keys) <= 24 and not any("layer_" in name for name in keys)
    json.dumps(trainer.state.log_history, allow_nan=False)


def test_snapshots_are_traces_that_saturation_takes(tmp_path):
    callback = RoutingCallback(tmp_path / "run", probe=probe(4))
    trainer_of(tiny(), windows(), tmp_path, callback, max_steps=5, gradient_accumulation_steps=1).train()
    run = read_run(tmp_path / "run")
    traces = {tokens: moeviz.read_trace(file) for tokens, file in run.snapshots.items()}
    assert [trace.model.revision for trace in traces.values()] == ["step 0", "step 1", "step 2", "step 4"]
    saturation = saturation_over_training(traces).query("choice == 'all choices'")
    assert saturation.groupby("training_tokens")["saturation"].mean().iloc[-1] == 1
    before = saturation[saturation["training_tokens"] == sorted(traces)[-2]].set_index("layer")["saturation"]
    changed = run.changed[run.changed["step"] == 4].set_index("layer")["changed"]
    np.testing.assert_allclose(changed, 1 - before)
    assert "label" in traces[0].tokens


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_continues_the_history(restored, tmp_path):
    rows, options = windows(ragged=True), {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    options |= {
        "logging_steps": 2,
        "learning_rate": 0.0,
    }  # transformers 5.25 does not load these routers and experts anew
    runs = {}
    for name in ("whole", "resumed"):
        folder = tmp_path / name
        callback = RoutingCallback(folder / "run", rules=Rules(dead=50, enough=100, max_violation=0.3))
        trainer_of(tiny(), rows, folder, callback, **options).train()
        if name == "resumed":  # once more from step 3, in the middle of a log
            callback = RoutingCallback(folder / "run", rules=Rules(dead=50, enough=100, max_violation=0.3))
            again = options | {"restore_callback_states_from_checkpoint": restored}
            trainer_of(tiny(), rows, folder, callback, **again).train(str(folder / "checkpoint-3"))
        runs[name] = read_run(folder / "run")
    whole, resumed = runs.values()
    assert (tmp_path / "resumed" / "run" / "routing.jsonl").read_text().count('"format"') == 2
    np.testing.assert_array_equal(whole.counts, resumed.counts)
    # The loss of a log that was begun before the checkpoint is Trainer's to keep, and it does not.
    assert whole.logs.drop(columns="loss").equals(resumed.logs.drop(columns="loss"))
    exact = ["step", "layer", "tokens", "assignments", "max_violation", "normalised_entropy", "dead"]
    assert whole.layers[exact].equals(resumed.layers[exact])
    np.testing.assert_allclose(whole.layers["z_loss"], resumed.layers["z_loss"], rtol=1e-12)
    assert whole.alarms.equals(resumed.alarms) and len(whole.alarms)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_is_opened_from_its_checkpoint_goes_on_to_the_same_bits(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 1}
    runs, checkpoint = [], tmp_path / "0" / "checkpoint-2"
    for folder in (tmp_path / "0", tmp_path / "1"):
        model = MixtralForCausalLM.from_pretrained(checkpoint) if runs else tiny()
        trainer = trainer_of(model, windows(), folder, RoutingCallback(folder / "run"), **options)
        trainer.train(str(checkpoint) if runs else None)
        runs.append(read_run(folder / "run"))
    np.testing.assert_array_equal(runs[0].counts[2:], runs[1].counts)
    same = ["step", "tokens", "loss", "aux_loss"]
    assert runs[0].logs[same].iloc[2:].to_numpy().tolist() == runs[1].logs[same].to_numpy().tolist()
    assert not any("saved with" in said for said in runs[1].facts.said)


def test_routers_that_are_not_those_of_the_checkpoint_are_said():
    with RoutingHealth(tiny()) as health:
        health.step()
        kept = json.loads(json.dumps(health.state_dict()))
    for change, expected in ((0, False), (1e-5, False), (0.01, True)):
        model = tiny()
        with torch.no_grad():
            model.model.layers[1].mlp.gate.weight += change
        with RoutingHealth(model) as health:
            health.load_state_dict(kept)
            said = [text for text in health.said if "Routers are not those that the checkpoint was saved with" in text]
            assert bool(said) == expected and all("in layer 1:" in text for text in said)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_watched_only_after_it_was_resumed_says_so(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer_of(tiny(), windows(), tmp_path, **options).train()
    callback = RoutingCallback(tmp_path / "run")
    trainer_of(tiny(), windows(), tmp_path, callback, **options).train(str(tmp_path / "checkpoint-2"))
    run = read_run(tmp_path / "run")
    assert run.logs["step"].tolist() == [3, 4] and any("goes on from step 2" in said for said in run.facts.said)


# --- TRL

SMALL = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 2,
    "logging_steps": 1,
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
    "bf16": False,
    "log_level": "error",
}


@pytest.fixture
def no_hub(monkeypatch):
    """TRL says on the hub that it is used, unless it is told not to."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", True)


@needs("trl", "datasets")
@pytest.mark.usefixtures("no_hub")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    [
        {"max_length": 128},
        {"packing": True, "packing_strategy": "wrapped", "max_length": 128},
        {"padding_free": True, "max_length": None},
    ],
    ids=["padded", "packed", "padding-free"],
)
def test_sft_counts_the_tokens_and_the_aux_loss_that_trl_counts(kind, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_dict({"input_ids": windows(count=48, ragged=True)})
    args = SFTConfig(str(tmp_path), **SMALL, **kind)
    trainer = SFTTrainer(tiny(), args, train_dataset=rows, processing_class=TOKENIZER, callbacks=[RoutingCallback()])
    trainer.train()
    log = [log for log in trainer.state.log_history if "moe/tokens" in log][-1]
    assert log["moe/tokens"] == log["num_tokens"] > 0
    assert log["moe/aux_loss_of_model"] == pytest.approx(log["aux_loss"], abs=1e-6)


@needs("trl", "datasets")
@pytest.mark.usefixtures("no_hub")
@pytest.mark.filterwarnings("ignore")
def test_grpo_counts_the_forwards_of_the_policy_loss_alone(tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompts = Dataset.from_dict({"prompt": ["Il fait froid", "12 + 7 =", "def f(x):", "Once upon"] * 4})
    args = GRPOConfig(str(tmp_path), num_generations=4, max_completion_length=8, beta=0.0, **SMALL)

    def reward(completions, **_):
        return [float(len(set(text))) for text in completions]

    trainer = GRPOTrainer(
        tiny(output_router_logits=False),
        reward_funcs=reward,
        args=args,
        train_dataset=prompts,
        processing_class=TOKENIZER,
        callbacks=[RoutingCallback()],
    )
    own, read = trainer._get_per_token_logps_and_entropies, {True: 0, False: 0}

    def spy(model, ids, mask, *given, **options):
        read[torch.is_grad_enabled()] += int(mask.sum())
        return own(model, ids, mask, *given, **options)

    trainer._get_per_token_logps_and_entropies = spy
    trainer.train()
    log = [log for log in trainer.state.log_history if "moe/tokens" in log][-1]
    assert log["moe/tokens"] == read[True] > 0


@needs("trl", "datasets", "peft")
@pytest.mark.usefixtures("no_hub")
@pytest.mark.filterwarnings("ignore")
def test_dpo_with_an_adapter_does_not_count_its_reference(tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = {"prompt": ["Il fait", "12 + 7"], "chosen": [" froid.", " = 19."], "rejected": [" chaud.", " = 20."]}
    rows = Dataset.from_dict({name: texts * 8 for name, texts in pairs.items()})
    args = DPOConfig(str(tmp_path), **SMALL)
    model = adapted(tiny(), "attention")
    trainer = DPOTrainer(
        model, args=args, train_dataset=rows, processing_class=TOKENIZER, callbacks=[RoutingCallback()]
    )
    batches, own = [], trainer.data_collator

    def noting(rows):
        batches.append(own(rows))
        return batches[-1]

    trainer.data_collator = noting
    trainer.train()
    log = [log for log in trainer.state.log_history if "moe/tokens" in log][-1]
    assert log["moe/tokens"] == sum(int(batch["attention_mask"].sum()) for batch in batches[:4])


# --- on a GPU


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu_between_two_logs():
    """The router alone, since Mixtral's experts wait for the GPU themselves."""
    model = tiny().cuda().train()
    with RoutingHealth(model) as health:
        router, recorder = model.model.layers[0].mlp.gate, health.recorder
        hidden, mask = (torch.randn(256, *size, device="cuda") for size in ((64,), ()))
        recorder.now.phase, recorder.now.calls = "train", [0] * 3
        router(hidden)  # the first answer says what the score function is
        torch.cuda.set_sync_debug_mode("error")
        try:
            recorder.now.mask = mask > 0
            router(hidden)
            health.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        recorder.now.phase = recorder.now.mask = None
        assert health.report()["moe/tokens"] == 256 + int((mask > 0).sum())
