"""Which cure keeps eight experts alive? The training of the story's panel, by the page's own script in Chromium.

    python -m benchmarks.collapse [--seeds N] [--write]

Prints for each cure the lowest and highest figures of ten seeds: how many experts lost all their facts during training,
how many never had one, the busiest's share, what was dropped and what was remembered. A browser test holds the script
and its twin in torch together, number by number. With --write, the runs are saved for the page and the docs. It takes
ten minutes.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from playwright.sync_api import Page, sync_playwright
from torch import Tensor

from moeviz_app.widgets.components import history
from moeviz_app.widgets.components.history import COLLAPSE, NO_CURE, SIZES, collapse_table
from moeviz_app.widgets.components.history import COLLAPSE_RUNS as RUNS
from tests.support.browser import chromium

SEEDS = random.Random("collapse").sample(range(2**31), 10)  # drawn before anybody had seen a run
SCRIPT = (Path(history.__file__).parent / "collapse_training.js").read_text("utf-8")
TINY = 2**-23  # under the root of a norm
ARMS = {name: arm["set"] for name, arm in COLLAPSE["arms"].items()}
Numbers = Mapping[str, float]
Found = dict[str, float]  # dead, never, busiest, dropped, remembered


@dataclass(frozen=True)
class BatchResult:
    """A batch on its way through: its loss, whom the router chose, and who found room."""

    loss: Tensor  # cross-entropy and, times what is set, the balance loss
    cross_entropy: Tensor
    chosen: Tensor  # expert of each fact
    kept: Tensor
    right: Tensor

    def load(self, experts: int) -> Tensor:
        """Share of the facts that chose each expert."""
        return F.one_hot(self.chosen, experts).double().mean(0)


class Twin:
    """The model that the page trains, in double precision. `book` holds the facts: two names and a number each."""

    def __init__(
        self, sizes: Numbers, settings: Numbers, weights: Mapping[str, Tensor], lean: Tensor, book: Mapping[str, Tensor]
    ) -> None:
        self.sizes, self.settings, self.lean, self.book = sizes, settings, lean, book
        self.weights = {name: part.clone().requires_grad_() for name, part in weights.items()}
        self.bias = torch.zeros(int(sizes["experts"]), dtype=torch.float64)
        self.adam = torch.optim.Adam(self.weights.values(), betas=(0.9, 0.98))
        self.step = 0

    def forward(self, facts: Tensor, noise: Tensor | None = None) -> BatchResult:
        """Guess the numbers of these facts, places in the book; noise is (facts, experts), added to the logits."""
        experts, width = int(self.sizes["experts"]), int(self.sizes["width"])
        weights, book = self.weights, self.book
        total = weights["first"][book["first"][facts]] + weights["second"][book["second"][facts]]
        logits = norm(total + self.lean) @ weights["router"]
        if noise is not None:
            logits = logits + noise
        probability = logits.softmax(-1)
        chosen = (logits + self.bias).argmax(-1)
        wanted = F.one_hot(chosen, experts)
        before = (wanted.cumsum(0) - wanted).gather(1, chosen[:, None])[:, 0]
        capacity = self.settings["capacity"]
        kept = before < (math.ceil(capacity * len(facts) / experts) if capacity else len(facts))
        answer = total.new_zeros(len(facts), width)
        for expert in range(experts):
            rows = ((chosen == expert) & kept).nonzero()[:, 0]
            said = (norm(total[rows]) @ weights["up"][expert]).relu() @ weights["down"][expert]
            answer = answer.index_add(0, rows, said * probability[rows, expert, None])
        guess = norm(total + answer) @ weights["output"]
        cross_entropy = F.cross_entropy(guess, book["number"][facts])
        balance = experts * (wanted.double().mean(0) * probability.mean(0)).sum()
        right = guess.argmax(-1) == book["number"][facts]
        return BatchResult(cross_entropy + self.settings["balance"] * balance, cross_entropy, chosen, kept, right)

    def learn(self, facts: Tensor, noise: Tensor | None = None) -> BatchResult:
        """Learn from one batch, by one step of all weights; their gradients stay until the next."""
        seen = self.forward(facts, noise)
        self.adam.zero_grad()
        seen.loss.backward()
        warm = min(1.0, (self.step + 1) / self.sizes["warmUp"])
        self.adam.param_groups[0]["lr"] = self.sizes["rate"] * warm * (1 - self.step / self.sizes["steps"])
        self.adam.step()
        experts = len(self.bias)
        self.bias += self.settings["bias"] * torch.sign(1 / experts - seen.load(experts))
        self.step += 1
        return seen

    @torch.no_grad()
    def evaluate(self) -> Found:
        """Ask all facts once, without noise, in pieces as large as a batch."""
        batches = torch.arange(int(self.sizes["facts"])).split(int(self.sizes["batch"]))
        seen = [self.forward(facts) for facts in batches]
        chosen, kept, right = (torch.cat([getattr(one, name) for one in seen]) for name in ("chosen", "kept", "right"))
        load = (chosen.bincount(minlength=len(self.bias)) / len(chosen)).tolist()
        return found(load, load, 1 - kept.double().mean().item(), right.double().mean().item())


def norm(rows: Tensor) -> Tensor:
    """Divide each row by the root of its mean square."""
    return F.rms_norm(rows, rows.shape[-1:], eps=TINY)


def found(load: list[float], born: list[float], dropped: float, remembered: float) -> Found:
    """Return the figures of a trained network. Dead is who had facts before training; who had none never had one."""
    lost = [bool(before) for now, before in zip(load, born, strict=True) if not now]
    dead, never = sum(lost), len(lost) - sum(lost)
    return {"dead": dead, "never": never, "busiest": max(load), "dropped": dropped, "remembered": remembered}


def in_page(page: Page, settings: Numbers, seed: int, sizes: Numbers = SIZES) -> Found:
    """Train with the page's script, which the page has."""
    train = """([sizes, settings, seed]) => {
      const training = new Training(sizes, settings, seed);
      const born = training.evaluate().load;
      while (training.step < sizes.steps) training.learn();
      return { born, ...training.evaluate() };
    }"""
    told: dict[str, Any] = page.evaluate(train, [dict(sizes), dict(settings), seed])
    return found(told["load"], told["born"], told["dropped"], told["remembered"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collapse", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=len(SEEDS), choices=range(1, len(SEEDS) + 1))
    parser.add_argument("--write", action="store_true", help="save the runs for the page and the docs")
    asked = parser.parse_args()
    rows, seconds = [], []
    with sync_playwright() as playwright:
        page = chromium(playwright).new_page()
        page.add_script_tag(content=SCRIPT)
        for arm, changed in ARMS.items():
            for seed in SEEDS[: asked.seeds]:
                began = time.perf_counter()
                rows.append({"arm": arm, "seed": seed} | in_page(page, NO_CURE | changed, seed))
                seconds.append(time.perf_counter() - began)
            print(collapse_table(pd.DataFrame(rows[-asked.seeds :])).to_string(index=False, header=False), flush=True)
    if asked.write:
        pd.DataFrame(rows).to_csv(RUNS, index=False, float_format="%.4f")
    print(f"{statistics.median(seconds):.1f} s a run (median)")


if __name__ == "__main__":
    main()
