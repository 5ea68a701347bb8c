"""Train the embedded model: `python -m models.training.train TOKENS OUT --minutes 120`.

Seeded and resumable: run the same command again and it goes on from OUT/checkpoint.pt. The schedule follows the clock
or a number of tokens, whichever is used up first, so a busy machine trains on less text and still ends well.
"""

import argparse
import json
import logging
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from models.training.documents import DOMAINS
from models.training.model import Shape, TrainingMixture
from models.training.optimisers import ADAM_RATE, MUON_RATE, make_optimisers, rate_factor
from models.training.routing_losses import RoutingLosses, Within
from models.training.token_files import Windows
from models.training.validation import Report, validate

TOKENS_PER_STEP = 16_384
WINDOW = 256
LONG_WINDOW = 1_024
LONG_FROM = 0.7  # of the training: short windows mix more domains a step, long ones teach the model to use its context
FIRST_SNAPSHOT = 262_144  # tokens; then at every doubling, for how routing forms
STEPS_PER_LINE = 25
MINUTES_PER_REPORT = 5

log = logging.getLogger("moeviz.training")


DTYPES = "bfloat16", "float32"
DTYPE_HELP = "of the matrix products; float32 is the faster one on processors without AMX"

SHAPES = {
    "mixtral": Shape(),
    # Each expert split in four, and one of them for every token: the same size, and the same compute (2401.06066).
    "fine-grained": Shape(expert_width=64, experts=31, shared=1, top_k=7, scores="sigmoid"),
}
SIZES = {
    "hidden": "hidden size; experts are wider or narrower with it",
    "layers": "layers",
    "heads": "heads of queries",
    "experts": "experts that are chosen from",
    "top_k": "experts that are chosen for a token",
    "expert_width": "width of an expert",
}


@dataclass
class Position:
    """How far a run has come; all that a checkpoint needs beside weights and optimiser states."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    next_snapshot: int = FIRST_SNAPSHOT


class Run:
    """One training run: its model, its optimisers and its place in the schedule."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.out, self.device = arguments.out, arguments.device
        self.dtype = getattr(torch, arguments.dtype)
        self.out.mkdir(parents=True, exist_ok=True)
        self.model = TrainingMixture(shape_from(arguments), arguments.seed).to(self.device)
        self.optimisers = make_optimisers(self.model, self.dtype)
        self.windows = Windows(arguments.tokens_folder, arguments.seed)
        self.losses = RoutingLosses(**{name: getattr(arguments, name) for name in asdict(RoutingLosses())})
        self.position = Position()
        if self._checkpoint.exists():
            self._resume()

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    @property
    def progress(self) -> float:
        """The part of the training that is done, 0 to 1."""
        minutes, tokens = (limit or math.inf for limit in (self.arguments.minutes, self.arguments.tokens))
        return max(self.position.seconds / 60 / minutes, self.position.tokens / tokens)

    def step(self) -> float:
        """One step of all optimisers; returns the loss in nats per token."""
        length = LONG_WINDOW if self.progress >= self.arguments.long_from else WINDOW
        ids, domains = self.windows.draw(self.position.step, self.arguments.tokens_per_step // length, length)
        ids, domains = torch.from_numpy(ids).to(self.device), torch.from_numpy(domains).to(self.device)
        losses, routings = self.model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), self.dtype)
        loss = losses.mean()
        (loss + self.losses(routings, domains, len(DOMAINS))).backward()
        factor = rate_factor(self.progress, self.position.step)
        for optimiser, rate in zip(self.optimisers, (MUON_RATE, ADAM_RATE), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        # Muon's steps have one size whatever the gradient's; only AdamW's weights need their gradients kept in bounds.
        nn.utils.clip_grad_norm_([w for group in self.optimisers[1].param_groups for w in group["params"]], 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if self.model.shape.scores == "sigmoid":
            for layer, routing in zip(self.model.layers, routings, strict=True):
                layer.even_out(routing.counts, self.arguments.bias_rate)
        self.position.step += 1
        self.position.tokens += ids[:, 1:].numel()
        return loss.item()

    def save(self) -> None:
        """Write the checkpoint; a run that is killed while writing keeps the one before."""
        state = {
            "shape": asdict(self.model.shape),
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "position": asdict(self.position),
        }
        torch.save(state, self._checkpoint.with_suffix(".new"))
        self._checkpoint.with_suffix(".new").replace(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.position = Position(**state["position"])
        log.info("resumed at step %d, %.2f million tokens", self.position.step, self.position.tokens / 1e6)

    def snapshot(self) -> None:
        """Keep the weights in bfloat16 at every doubling of the tokens, for traces of how routing forms."""
        weights = {name: weight.detach().cpu() for name, weight in self.model.state_dict().items()}
        weights = {name: weight if name.endswith("bias") else weight.bfloat16() for name, weight in weights.items()}
        state = {"shape": asdict(self.model.shape), "model": weights}
        torch.save(state, self.out / f"snapshot-{self.position.tokens:010d}.pt")

    def log_progress(self, nats: float, tokens_per_second: float) -> None:
        """A line of where the run is."""
        log.info(
            "%3.0f %%  step %d  %.2f million tokens  %.0f s  %.3f nats  rate x%.2f  %.0f tokens/s",
            100 * self.progress,
            self.position.step,
            self.position.tokens / 1e6,
            self.position.seconds,
            nats,
            rate_factor(self.progress, self.position.step),
            tokens_per_second,
        )

    def report(self) -> Report:
        """Validate; log the report, and append it to OUT/reports.jsonl."""
        report = validate(self.model, self.arguments.tokens_folder, self.device, self.dtype)
        log.info("%s", report)
        with (self.out / "reports.jsonl").open("a") as lines:
            lines.write(json.dumps(asdict(self.position) | asdict(report)) + "\n")
        return report


def train(run: Run) -> Report:
    """Train to the end of the schedule; returns the last validation."""
    position, average, last_report = run.position, None, run.position.seconds
    began = time.monotonic() - position.seconds
    first = position.tokens, position.seconds
    while run.progress < 1:
        loss = run.step()
        position.seconds = time.monotonic() - began
        average = loss if average is None else 0.95 * average + 0.05 * loss
        if position.step % STEPS_PER_LINE == 0:
            run.log_progress(average, (position.tokens - first[0]) / (position.seconds - first[1]))
        if position.tokens >= position.next_snapshot:
            run.snapshot()
            position.next_snapshot *= 2
        if position.seconds - last_report > MINUTES_PER_REPORT * 60:
            run.report()
            run.save()
            last_report = position.seconds
    run.save()
    run.snapshot()
    return run.report()


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.training.train", description=__doc__)
    parser.add_argument("tokens_folder", type=Path, metavar="TOKENS", help="the tokenised corpus")
    parser.add_argument("out", type=Path, metavar="OUT", help="checkpoints and reports; a run found here goes on")
    parser.add_argument("--minutes", type=float, help="length of the schedule by the clock")
    parser.add_argument("--tokens", type=float, help="length of the schedule in tokens")
    parser.add_argument("--tokens-per-step", type=int, default=TOKENS_PER_STEP)
    parser.add_argument("--long-from", type=float, default=LONG_FROM, help="part of the training with short windows")
    parser.add_argument("--shape", choices=SHAPES, default="mixtral", help="what the next switches start from")
    for name, says in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=says)
    for name, value in asdict(RoutingLosses()).items():
        if isinstance(value, float):
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=float, default=value, help="coefficient in the loss"
            )
    parser.add_argument("--balance-within", choices=get_args(Within), default="batch", help="where load is to be even")
    parser.add_argument("--bias-rate", type=float, default=1e-3, help="a step of the bias that evens out sigmoids")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help=DTYPE_HELP)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args(arguments)
    if not (parsed.minutes or parsed.tokens):
        parser.error("say how long to train: --minutes, --tokens or both")
    return parsed


def shape_from(arguments: argparse.Namespace) -> Shape:
    """The size of the model that these arguments describe."""
    base = SHAPES[arguments.shape]
    given = {name: value for name in SIZES if (value := getattr(arguments, name)) is not None}
    if "hidden" in given:
        given = {"expert_width": base.expert_width * given["hidden"] // base.hidden} | given
    return replace(base, **given)


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    run = Run(parse(sys.argv[1:]))
    run.model.compile_parts()
    train(run)


if __name__ == "__main__":
    main()
