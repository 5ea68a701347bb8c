"""Texts that decode in one batch: whether each gives what it gives by itself, and the cost.

    python -m benchmarks.together alike [--streams N]
    python -m benchmarks.together cost [--texts N] [--tokens N] [--rounds N]

`alike` lets streams of random texts, lengths, seeds and settings begin, go on and be left in an order of chance, on the
embedded model and on tiny ones of four families, and compares each with its quiet trace. Printed is, of each model, how
many are equal bit for bit, the largest difference of weights and logits (of the largest there is), and each stream that
parts from the quiet one, with how near that decision was. It ends with an error where a figure is above what
docs/deployment.md says.

`cost` writes texts of the embedded model in turns, each with an attention cache of its own, and together; and one text
in both ways, since a single visitor must not wait longer. The ways take turns, round by round; printed are medians.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import torch

import moeviz
from benchmarks.harness import compared, take_turns
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.run.decoding import Sampling
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.together import share_decoding
from moeviz.capture.trace import capture_growing

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
AT_ONCE = 20  # streams of a round
SECONDS_BETWEEN = 0.3  # as the app assembles traces


def main() -> None:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("alike", "cost"))
    parser.add_argument("--streams", type=int, default=500, help="of all models")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "alike":
        sys.exit(not alike(asked.streams))
    print(compared(cost(asked.texts, asked.tokens, asked.rounds), 0))


def alike(streams: int) -> bool:
    """Compare this many streams with quiet traces; return True if all are as the documentation says."""
    from forks import FAMILIES, asked_at_random, found_alike, opened

    holds, each = True, streams // len(FAMILIES)
    for family in FAMILIES:
        model, chance, found = opened(family), random.Random(family), []
        while len(found) < each:
            found += found_alike(model, [asked_at_random(chance) for _ in range(AT_ONCE)], chance)
        largest = " ".join(f"{of} {max(getattr(one, of) for one in found):.1e}" for of in ("weights", "logits"))
        equal = sum(one.token is None and not one.weights and not one.logits for one in found)
        print(f"{family:12} {len(found)} streams, {equal} equal bit for bit; largest difference: {largest}", flush=True)
        for one in found:
            holds &= one.holds
            if one.token is not None or not one.holds:
                print(f"    {one}", flush=True)
    return holds


def cost(texts: int, tokens: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return CPU and wall milliseconds of this many texts, and of one, by each way."""
    alone, shared = moeviz.load_model(), moeviz.load_model()
    if why_not := share_decoding(shared):
        sys.exit(why_not)
    arms = {"in turns": alone, "together": shared}
    return take_turns(
        {name: lambda _round, model=model: written(model, texts, tokens) for name, model in arms.items()}, rounds
    )


def written(model: LoadedModel, texts: int, tokens: int) -> dict[str, float]:
    """Generate this many texts, and one; return the milliseconds of each."""
    took = {}
    for number in (texts, 1):
        wall, cpu = time.perf_counter(), time.process_time()
        go_on(model, number, tokens)
        took[f"{number} texts, wall ms"] = 1000 * (time.perf_counter() - wall)
        took[f"{number} texts, CPU ms"] = 1000 * (time.process_time() - cpu)
    return took


def go_on(model: LoadedModel, texts: int, tokens: int) -> None:
    """Let each text have a token in turn, to the end of all."""
    going = [
        capture_growing(
            model,
            CaptureRequest(
                (f"{n}: the river of light ran under a stone bridge",), tokens, Sampling(0.8), next_tokens="auto"
            ),
            seconds_between=SECONDS_BETWEEN,
        )
        for n in range(texts)
    ]
    while going:
        going = [one for one in going if next(one, None) is not None]


if __name__ == "__main__":
    main()
