"""How much of a text do the expert ids of its tokens give away, when neither texts nor token ids are written?

    python -m benchmarks.text_from_ids [--learn FILE …]

On the embedded model. The attack is a look-up table: from the experts of a token at all layers to the commonest token
that had them; where none had, from those at all layers but the last, and so on down to the first layer alone. It is
learnt on three of the four held-out texts of each kind, and then told the experts of the fourth, one token at a time.
Each text is the fourth once. Beside it stand two kinds of luck: the commonest token, and the table told the experts of
some other token of the same texts. `--learn` traces more texts to learn from.

Trained decoders get far more of a larger model: 63% of tokens, each by itself, and 91% from 32 tokens in a row
(arXiv 2602.04105).
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.harness import table
from moeviz import RoutingTrace, load_model, trace_corpus
from moeviz.labelled_texts import texts_that_ship

FOLDS = 4
Experts = tuple[bytes, ...]  # of a token: the set of each layer


def experts_of(trace: RoutingTrace) -> list[Experts]:
    """The sets of experts of each token, layer by layer."""
    sets = np.sort(trace.experts, axis=2).transpose(1, 0, 2)
    return [tuple(layer.tobytes() for layer in token) for token in sets]


class Table:
    """The commonest token of those that had the same experts at the first layers, for each number of layers."""

    def __init__(self, experts: list[Experts], tokens: list[int]) -> None:
        found: defaultdict[Experts, Counter[int]] = defaultdict(Counter)
        for sets, token in zip(experts, tokens, strict=True):
            for layers in range(len(sets) + 1):
                found[sets[:layers]][token] += 1
        self.commonest = {sets: counts.most_common(1)[0][0] for sets, counts in found.items()}

    def guess(self, sets: Experts) -> int:
        """The token that had these experts at as many of the first layers as any had."""
        return next(self.commonest[sets[:n]] for n in range(len(sets), -1, -1) if sets[:n] in self.commonest)


def folds_of(tokens: pd.DataFrame) -> np.ndarray:
    """In which fold each token is judged, (T,): the texts of each label take turns."""
    label = tokens.groupby("sequence")["label"].first()
    fold = label.groupby(label).cumcount() % FOLDS
    return fold.loc[tokens["sequence"]].to_numpy()


def shares(trace: RoutingTrace, more: RoutingTrace | None = None) -> dict[str, float]:
    """The share of tokens that come back: by the table, as the commonest token, and by another token's experts."""
    experts, tokens = experts_of(trace), trace.tokens["token_id"].tolist()
    others = ([], []) if more is None else (experts_of(more), more.tokens["token_id"].tolist())
    fold, rng, right = folds_of(trace.tokens), np.random.default_rng(0), Counter()
    for number in range(FOLDS):
        learnt, judged = (np.flatnonzero(where).tolist() for where in (fold != number, fold == number))
        made = Table([experts[at] for at in learnt] + others[0], [tokens[at] for at in learnt] + others[1])
        for at, other in zip(judged, rng.permutation(judged).tolist(), strict=True):
            guesses = {"its own": experts[at], "no": (), "another token's": experts[other]}
            right.update({name: made.guess(sets) == tokens[at] for name, sets in guesses.items()})
    return {name: count / len(tokens) for name, count in right.items()}


def main() -> None:
    """Print the shares, and from how many tokens they were learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", nargs="*", default=[], metavar="FILE", help="texts to learn from besides")
    args = parser.parse_args()
    model = load_model()
    trace = trace_corpus(model, texts_that_ship())
    texts = [("more", Path(name).read_text("utf-8")) for name in args.learn]
    more = trace_corpus(model, texts) if texts else None
    count = len(trace.tokens)
    learnt = count * (FOLDS - 1) // FOLDS + (0 if more is None else len(more.tokens))
    print(f"{count:,} tokens, each guessed by a table of about {learnt:,} tokens of other texts\n")
    print(
        table(["told", "right"], [[f"{name} experts", f"{share:.1%}"] for name, share in shares(trace, more).items()])
    )


if __name__ == "__main__":
    main()
