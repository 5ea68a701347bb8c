"""Check that an alarm reports only routers that collapse: a tiny MoE, trained with the aux loss and without.

    python -m benchmarks.training_pair [--seeds N] [--scratch] [--write]

A Mixtral of two layers of eight experts, top-2, on the texts that ship, with routers whose first weights are ten times
too large. "collapse" is the first log at which exp(entropy of load) / E of a layer is below 0.5; "said" is the log at
which the alarm of that layer began. --scratch judges by `Rules.from_scratch`. --write replaces the pair that ships
by the runs of seed 0.
"""

import argparse
import logging
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from moeviz.embedded import embedded_path
from moeviz.embedded.evaluation import evaluation_set
from moeviz.training import Rules, TrainingRun, read_run, watch
from moeviz.training.reading import EXAMPLE_FOLDER, EXAMPLE_NAMES

STEPS, LOGGING, BATCH, LENGTH = 90, 5, 8, 64
TOO_LARGE = 10  # times the usual first weights of a router
SIZES = {"vocab_size": 8192, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0}
ROUTING = {"num_local_experts": 8, "num_experts_per_tok": 2}


def pair_model(aux: bool, seed: int) -> MixtralForCausalLM:
    """Return the model; its first weights are the same with and without."""
    torch.manual_seed(seed)
    config = MixtralConfig(
        **SIZES, **HEADS, **ROUTING, output_router_logits=aux, router_aux_loss_coef=1.0 if aux else 0.0
    )
    model = MixtralForCausalLM(config)
    for layer in model.model.layers:
        layer.mlp.gate.weight.data *= TOO_LARGE
    return model


class RandomWindows(torch.utils.data.Dataset):
    """Windows of the texts that ship, at random places."""

    def __init__(self, tokenizer: AutoTokenizer, count: int, seed: int) -> None:
        ids = [i for text in evaluation_set() for i in tokenizer(text.text)["input_ids"]]
        starts = torch.randint(0, len(ids) - LENGTH, (count,), generator=torch.Generator().manual_seed(seed))
        self.rows = [torch.tensor(ids[start : start + LENGTH]) for start in starts.tolist()]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        row = self.rows[place]
        return {"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)}


def trained(aux: bool, seed: int, out: Path, steps: int = STEPS, rules: Rules | None = None) -> TrainingRun:
    """Train one of the pair and read what was written of it."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_path())
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            logging_steps=LOGGING,
            learning_rate=1e-3,
            seed=seed,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = RandomWindows(tokenizer, BATCH * STEPS, seed)
        trainer = Trainer(pair_model(aux, seed), args, train_dataset=rows, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        probe = [(text.label, text.text[:100]) for text in evaluation_set()[::4]]
        watch(trainer, out, probe=probe, rules=rules)
        trainer.train()
    return read_run(out)


def collapse(run: TrainingRun) -> dict[int, int]:
    """By layer, the step of the first log at which exp(entropy of load) / E is below 0.5."""
    found = {}
    for row, (layer, size) in enumerate(zip(run.facts.layers, run.facts.num_experts, strict=True)):
        share = run.counts[:, row, :size] / run.counts[:, row, :size].sum(axis=1, keepdims=True)
        entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
        below = np.flatnonzero(np.exp(entropy) / size < 0.5)
        if len(below):
            found[layer] = int(run.logs["step"].iloc[below[0]])
    return found


def said(run: TrainingRun) -> dict[int, int]:
    """Return, by layer, the step at which its collapse was reported."""
    alarms = run.alarms.query("kind == 'collapse'").drop_duplicates("layer")
    return dict(zip(alarms["layer"].tolist(), alarms["began"].tolist(), strict=True))


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="pairs to train (default 1)")
    parser.add_argument("--scratch", action="store_true", help="judge by the rules for runs from scratch")
    parser.add_argument("--write", action="store_true", help="replace the pair that ships by that of seed 0")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"{'seed':>4}  {'run':<8}{'loss':>6}  {'collapse (layer: step)':<24}{'said':<16}alarms on at the end")
    rules = Rules.from_scratch(warmup=STEPS * BATCH * LENGTH // 10) if wanted.scratch else None
    for seed in range(wanted.seeds):
        for name in EXAMPLE_NAMES:
            with tempfile.TemporaryDirectory() as folder:
                run = trained(name == "aux-on", seed, Path(folder) / name, rules=rules)
                on = ", ".join(run.alarms[run.alarms["on"]]["kind"]) or "none"
                loss = (run.logs["loss"] - run.logs["aux_in_loss"]).iloc[-1]
                print(f"{seed:>4}  {name:<8}{loss:>6.2f}  {collapse(run)!s:<24}{said(run)!s:<16}{on}", flush=True)
                if wanted.write and seed == 0:
                    shutil.rmtree(EXAMPLE_FOLDER / name, ignore_errors=True)
                    shutil.copytree(Path(folder) / name, EXAMPLE_FOLDER / name)


if __name__ == "__main__":
    main()
