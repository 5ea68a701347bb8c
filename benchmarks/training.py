"""What does watching the routers cost a training step? Time of a step with / without, interleaved, and memory kept.

    python -m benchmarks.training [--rounds N]

The embedded model, in a process of one thread; a step is forward, backward and the optimizer. Steps with and without
take turns, in random order within a round. Printed is the CPU time of a step with `RoutingHealth` / that of the step
without in the same round: the median over rounds and the middle half, with a log every 10 steps (its cost is in the
steps that make one); and what it keeps: bytes of its counters and of one step until the next log.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import interleave, quartiles, ratios
from moeviz.capture.models.load import load_model
from moeviz.training import RoutingHealth

SHAPES = {1_024: (4, 256), 4_096: (16, 256)}  # tokens of a step: rows, tokens of each
WARM_UP, LOG_EVERY = 2, 10


class WatchedTraining:
    """A model that is trained, a step whenever it is asked, watched or not: one model, so that nothing else differs."""

    def __init__(self, rows: int, tokens: int, out: Path) -> None:
        self.model = load_model().model.train()
        self.health = RoutingHealth(self.model, out)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-5)
        ids = torch.randint(3, self.model.config.vocab_size, (rows, tokens))
        self.batch = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
        self.watched = 0

    def seconds(self, watched: bool) -> float:
        """CPU time of one step; hooks are put on and taken off outside of it."""
        self.health.close()
        if watched:
            self.health.recorder._hook_model(self.model)
        start = time.process_time()
        loss = self.model(**self.batch, use_cache=False).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if watched:
            self.watched += 1
            self.health.step()
            if self.watched % LOG_EVERY == 0:
                self.health.report(loss)
        return time.process_time() - start


def measured(tokens: int, rounds: int) -> tuple[list[float], float, RoutingHealth]:
    """Ratios of a step with to a step without, the median seconds of a step without, and the meter."""
    with tempfile.TemporaryDirectory() as folder:
        steps = WatchedTraining(*SHAPES[tokens], Path(folder))
        ways = {"with": partial(steps.seconds, True), "without": partial(steps.seconds, False)}
        times = interleave(ways, rounds, WARM_UP)
        return ratios(times, "with", "without"), statistics.median(times["without"]), steps.health


def kept(health: RoutingHealth) -> tuple[int, int]:
    """Bytes that the meter holds on the device, and bytes of each step until the next log."""
    counters = [part for each in health.recorder.counters.values() for part in (each.counts, each.sums)]
    held = sum(part.nbytes for part in (*counters, health._sums, health._aux, health.recorder.aux))
    return held, counters[0].numel() * torch.int32.itemsize


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="interleaved rounds (default 60)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {rounds} rounds, embedded model, a log every {LOG_EVERY} steps\n")
    print(f"{'tokens':>6}{'step (ms)':>11}{'with / without':>16}   {'middle half':<16}{'bytes held':>11}{'a step':>8}")
    for tokens in SHAPES:
        found, bare, health = measured(tokens, rounds)
        middle, half = quartiles(found)
        held, step = kept(health)
        print(f"{tokens:>6}{1000 * bare:>11.0f}{middle:>16.3f}   {half:<16}{held:>11,}{step:>8,}", flush=True)


if __name__ == "__main__":
    main()
