"""How much of a text do the expert ids of its tokens give away, when neither texts nor token ids are written?

    python -m benchmarks.text_from_ids [--learn FILE …]

On the embedded model. The attack is a table: for each layer, how often each token was sent to each set of experts. It is
learnt on three of the four held-out texts of each kind, with their tokens, and then told the sets of the fourth, one
token at a time: the token that fits best is its guess. Each text is the fourth once. Beside it stand two kinds of luck:
the commonest token, and the table told the sets of some other token of the same texts. `--learn` traces more texts to
learn from.

Trained decoders get far more of a larger model: 63% of tokens, each by itself, and 91% from 32 tokens in a row
(arXiv 2602.04105).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import table
from moeviz import RoutingTrace, load_model, trace_corpus
from moeviz.embedded.reference import reference_routing

FOLDS = 4
AT_ONCE = 512  # tokens that are guessed together
SMOOTHING = 0.1  # added to each count: a set that a token was never seen with is rare, and not impossible


class Table:
    """How often each token was sent to each set of experts, layer by layer. sets: (L, T) numbers; tokens: (T,)."""

    def __init__(self, sets: np.ndarray, tokens: np.ndarray) -> None:
        self.tokens, which, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        size = int(sets.max()) + 1
        seen = np.full((len(sets), size, len(self.tokens)), SMOOTHING, np.float32)
        for layer, row in enumerate(sets):
            np.add.at(seen[layer], (row, which), 1)
        self.fit = np.log(seen / seen.sum(axis=1, keepdims=True))
        self.common = np.log(counts / counts.sum()).astype(np.float32)

    def guess(self, sets: np.ndarray) -> np.ndarray:
        """The token that fits best to the sets of each, (T,)."""
        found = []
        for start in range(0, sets.shape[1], AT_ONCE):
            fit = self.common + sum(of[row[start : start + AT_ONCE]] for of, row in zip(self.fit, sets, strict=True))
            found.append(self.tokens[fit.argmax(axis=1)])
        return np.concatenate(found)


def numbered(traces: list[RoutingTrace]) -> list[np.ndarray]:
    """The sets of experts of each trace as numbers, the same number for the same set: (L, T) each."""
    sets = [np.sort(trace.experts, axis=2) for trace in traces]
    ends = np.cumsum([one.shape[1] for one in sets])[:-1]
    layers = np.concatenate(sets, axis=1)
    numbers = [np.unique(layer, axis=0, return_inverse=True)[1].ravel() for layer in layers]
    return np.split(np.stack(numbers), ends, axis=1)


def folds(trace: RoutingTrace) -> Iterator[np.ndarray]:
    """For each fold, which tokens are judged: those of one text of each label."""
    sequence = trace.tokens["sequence"].to_numpy()
    label = trace.tokens.groupby("sequence")["label"].first()
    place = label.groupby(label).cumcount()  # of each text among those of its label
    for fold in range(FOLDS):
        yield np.isin(sequence, place.index[place % FOLDS == fold])


def shares(trace: RoutingTrace, more: RoutingTrace | None = None) -> dict[str, float]:
    """The share of tokens that come back: by the table, as the commonest token, and by another token's sets."""
    given, tokens = [trace] if more is None else [trace, more], trace.tokens["token_id"].to_numpy()
    sets, *others = numbered(given)
    words = [one.tokens["token_id"].to_numpy() for one in given[1:]]
    rng, right = np.random.default_rng(0), np.zeros(3)
    for judged in folds(trace):
        learnt = np.concatenate([tokens[~judged], *words])
        made = Table(np.concatenate([sets[:, ~judged], *others], axis=1), learnt)
        own, ids = sets[:, judged], tokens[judged]
        commonest = np.bincount(learnt).argmax()
        shuffled = own[:, rng.permutation(own.shape[1])]
        right += [(guessed == ids).sum() for guessed in (made.guess(own), commonest, made.guess(shuffled))]
    return dict(zip(("from its experts", "commonest token", "from another's"), right / len(tokens), strict=True))


def main() -> None:
    """Print the shares, and from how many tokens they were learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", nargs="*", default=[], metavar="FILE", help="texts to learn from besides")
    args = parser.parse_args()
    trace, more = reference_routing(), None
    if args.learn:
        texts = [("more", Path(name).read_text("utf-8")) for name in args.learn]
        more = trace_corpus(load_model(), texts)
    count = len(trace.tokens)
    learnt = count * (FOLDS - 1) // FOLDS + (0 if more is None else len(more.tokens))
    found = shares(trace, more)
    rows = [[name, f"{share:.1%}"] for name, share in found.items()]
    print(f"{count:,} tokens, each guessed by a table of about {learnt:,} tokens of other texts\n")
    print(table(["guessed", "right"], rows))


if __name__ == "__main__":
    main()
