"""How often does `moeviz decide` say what? Made-up routing of four kinds, of which it is known what is right.

    python -m benchmarks.decide [--draws N]

`stationary`: some experts are busier than others, always the same. `even`: all are alike. `rotating`: others are busy
in the second half. `bursty`: others are busy in each text. 4 layers of 64 experts, 6 a token, 60 texts, 8 devices. For
each kind and number of tokens: the verdicts on balancing, how often loads are said to drift, and what a split of memory
changes on tokens that it was not made from (of a quarter of the draws), with the share of these that lose more than two
standard errors of a difference between two shares.
"""

import argparse
from collections import Counter

import numpy as np

from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace, token_frame
from moeviz.serving.answers import split_memory
from moeviz.serving.decision import persistence, persistence_sentence, placement_judgements, placement_verdict

KINDS = ("stationary", "even", "rotating", "bursty")
TOKENS = (9_000, 1_800, 300)
LAYERS, EXPERTS, TOP_K, TEXTS, DEVICES = 4, 64, 6, 60, 8
SPREAD = 0.6  # of the logarithms of experts' loads


def made_routing(kind: str, tokens: int, seed: int) -> RoutingTrace:
    """Draw a trace in which each token takes its experts without replacement, by their favour."""
    rng, each, parts = np.random.default_rng(seed), tokens // TEXTS, []
    usual, later = rng.normal(0, SPREAD, (2, LAYERS, EXPERTS))
    for text in range(TEXTS):
        own = rng.normal(0, SPREAD, (LAYERS, EXPERTS))
        favour = {"stationary": usual, "even": 0 * usual, "bursty": own}.get(kind, usual if 2 * text < TEXTS else later)
        scores = favour[:, None] + rng.gumbel(size=(LAYERS, each, EXPERTS))
        parts.append(np.argpartition(-scores, TOP_K, axis=2)[..., :TOP_K])
    model = ModelInfo("made up", "test", (*range(LAYERS),), (EXPERTS,) * LAYERS, TOP_K, slot_order="unknown")
    frame = token_frame(np.repeat(np.arange(TEXTS), each), np.tile(np.arange(each), TEXTS), ["x"] * each * TEXTS)
    return RoutingTrace(model, frame, np.concatenate(parts, axis=1).astype(np.int16))


def verdict(trace: RoutingTrace) -> str:
    """Return the first words on balancing."""
    return (placement_verdict(placement_judgements(trace, DEVICES)) or "").partition(":")[0]


def drifts(trace: RoutingTrace) -> bool:
    """Return True if the loads are reported to drift."""
    return (persistence_sentence(persistence(trace)) or "").startswith("Loads drift")


def split_gains(trace: RoutingTrace) -> tuple[list[float], float]:
    """Return what a split changes in each judgement, and two standard errors of it."""
    found = split_memory(trace)
    return (found["split"] - found["equal"]).tolist(), 2 * (0.5 / (len(trace.tokens) // 2 * TOP_K * LAYERS)) ** 0.5


def main() -> None:
    """Print a row for each kind and number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    for tokens in TOKENS:
        for kind in KINDS:
            traces = (made_routing(kind, tokens, seed) for seed in range(draws))
            said, drift, gains, lost = Counter[str](), 0, list[float](), 0
            for seed, trace in enumerate(traces):
                said[verdict(trace)] += 1
                drift += drifts(trace)
                if seed % 4 == 0:
                    more, noise = split_gains(trace)
                    gains += more
                    lost += sum(gain < -noise for gain in more)
            verdicts = ", ".join(f"{words} {number}" for words, number in said.most_common())
            span = f"{100 * min(gains):+.2f} to {100 * max(gains):+.2f}, mean {100 * np.mean(gains):+.2f}"
            print(f"{tokens:,} {kind}: {verdicts}; drift {drift}; split {span} points, {lost} of {len(gains)} lose")


if __name__ == "__main__":
    main()
