"""How often is something said of a trace, and of one whose routing is shuffled? The findings, kind by kind.

    python -m benchmarks.findings [--texts 200] [--seed 0]

On the embedded model: texts of random tokens, the 60 texts of the evaluation set (their first 52 tokens, the length of
the example, and whole), and shuffled routing: the tokens of a real text in any order at each layer; tokens drawn from
all texts, in any order; experts drawn at random with the loads of all texts; and experts drawn uniformly. With what is
usual (the 60 texts; for a real text, the 59 others), and without. The test of weakness: a sentence that the shuffling
has made untrue is said of at most 5% of the traces. To put the tokens of one text in another order leaves its loads as
they are, and so also what is said of its busiest expert.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from moeviz import RoutingTrace, load_model, trace
from moeviz.embedded.reference import reference_routing
from moeviz.metrics.findings import findings
from moeviz.routing_trace import token_frame

LENGTH = 52  # tokens of the shipped example
KINDS = {"busiest": " sends ", "passage": " in a row ", "habit": "All "}
Traces = Iterable[tuple[RoutingTrace, RoutingTrace]]  # each with what is usual


def random_texts(rng: np.random.Generator, texts: int) -> Traces:
    """Texts of random tokens of the vocabulary, routed by the model."""
    model, usual = load_model(), reference_routing()
    known = usual.tokens["text"].unique()
    for _ in range(texts):
        yield trace(model, "".join(rng.choice(known, LENGTH - 1))), usual


def real_texts(length: int | None) -> Traces:
    """The texts of the evaluation set, each against the others."""
    whole = reference_routing()
    for text in whole.tokens["sequence"].unique():
        mine = (whole.tokens["sequence"] == text).to_numpy()
        yield whole.select(tokens=np.flatnonzero(mine)[:length]), whole.select(tokens=~mine)


def in_any_order(rng: np.random.Generator, texts: int) -> Traces:
    """Real texts, their tokens shuffled within each layer, each with its set of experts."""
    real = list(real_texts(LENGTH))
    for number in range(texts):
        one, usual = real[number % len(real)]
        layers = [layer[rng.permutation(len(layer))] for layer in one.experts]
        yield replace(one, experts=np.stack(layers), weights=None, logits=None), usual


def of_all_texts(rng: np.random.Generator, texts: int) -> Traces:
    """Tokens of all texts, each layer's routing drawn by itself."""
    whole = reference_routing()
    for _ in range(texts):
        layers = [layer[rng.choice(len(layer), LENGTH, replace=False)] for layer in whole.experts]
        yield _with(whole, rng, np.stack(layers)), whole


def by_load(rng: np.random.Generator, texts: int, uniform: bool) -> Traces:
    """Experts drawn at random, with the loads of all texts or uniformly."""
    whole = reference_routing()
    loads = np.stack([np.bincount(layer.ravel(), minlength=8) for layer in whole.experts])
    chance = np.log(np.ones_like(loads) if uniform else loads)[:, None]
    for _ in range(texts):
        scores = chance + rng.gumbel(size=(len(loads), LENGTH, loads.shape[1]))
        yield _with(whole, rng, np.argsort(-scores, axis=-1)[..., : whole.model.top_k].astype(np.int16)), whole


def _with(whole: RoutingTrace, rng: np.random.Generator, experts: np.ndarray) -> RoutingTrace:
    """A text of tokens that are as frequent as they are in all texts, with this routing."""
    text = rng.choice(whole.tokens["text"].to_numpy(object), LENGTH).tolist()
    return RoutingTrace(whole.model, token_frame(np.zeros(LENGTH), np.arange(LENGTH), text), experts)


def report(name: str, traces: Traces) -> None:
    """A line with what is usual, and one without."""
    pairs = list(traces)
    for known in (True, False):
        told = [[found.sentence for found in findings(one, usual if known else None)] for one, usual in pairs]
        counts = [sum(any(sign in one for one in sentences) for sentences in told) for sign in KINDS.values()]
        cells = "".join(f"{100 * count / len(pairs):8.1f}%" for count in (*counts, sum(map(bool, told))))
        print(f"{name:34}{'yes' if known else 'no':>6}{len(pairs):8}{cells}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, texts = np.random.default_rng(options.seed), options.texts
    rows: dict[str, Callable[[], Traces]] = {
        "random tokens": lambda: random_texts(rng, texts),
        f"real texts, {LENGTH} tokens": lambda: real_texts(LENGTH),
        "real texts, whole": lambda: real_texts(None),
        "a real text in any order": lambda: in_any_order(rng, texts),
        "tokens of all texts, in any order": lambda: of_all_texts(rng, texts),
        "at random, by the usual loads": lambda: by_load(rng, texts, False),
        "at random, uniform": lambda: by_load(rng, texts, True),
    }
    print(f"{'traces':34}{'usual':>6}{'traces':>8}{''.join(f'{kind:>10}' for kind in (*KINDS, 'any'))}")
    for name, make in rows.items():
        report(name, make())


if __name__ == "__main__":
    main()
