"""Does a mixture pay? `python -m models.training.payoff TOKENS OUT [--seeds 3] [--tokens 2e6]`.

Small models that compute the same for each token, trained on the same tokens in the same order: a dense one, and
mixtures that choose two of 2, 4, 8 and 16 experts of half its width. A run that is there already is read, one that was
stopped goes on. Writes OUT/payoff.csv, a row a model: its experts, the seed, tokens read, parameters in all and at work
for a token, held-out loss in nats per token and in bits a byte (means over the domains).
"""

import argparse
import logging
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from models.training.model import Shape
from models.training.study import PROXY, trained
from models.training.train import DTYPE_HELP, DTYPES, parse, shape_from

EXPERTS = (1, 2, 4, 8, 16)
WIDTH = 128  # of an expert; the dense model's one is twice as wide, since a token has two of these
log = logging.getLogger("moeviz.training")
SETTING = ["--domain-information=0"]  # balance over the batch as the embedded model has it; no push towards kinds


def options(experts: int) -> list[str]:
    """What tells such a model from the others. The dense model's one expert has weight 1, whatever its router says."""
    top_k = min(experts, 2)
    return [*SETTING, f"--experts={experts}", f"--top-k={top_k}", f"--expert-width={2 * WIDTH // top_k}"]


def sizes(shape: Shape) -> dict[str, int]:
    """Parameters in all and at work for a token, routers aside: a thousandth, and a dense model needs none."""
    expert = 3 * shape.hidden * shape.expert_width
    attention = 2 * shape.hidden * shape.head_size * (shape.heads + shape.key_value_heads)
    norms = 2 * shape.hidden
    rest = shape.vocabulary * shape.hidden + shape.hidden + shape.layers * (attention + norms)
    return {
        "parameters": rest + shape.layers * shape.experts * expert,
        "active": rest + shape.layers * shape.top_k * expert,
    }


def row(asked: argparse.Namespace, seed: int, experts: int) -> dict[str, float]:
    """Train one model, or read what is there."""
    mine = [*options(experts), f"--tokens={asked.tokens:g}", f"--seed={seed}", f"--dtype={asked.dtype}"]
    folder = asked.out / f"experts-{experts}-tokens-{asked.tokens:g}-seed-{seed}"
    report = trained(str(asked.tokens_folder), folder, mine)
    shape = shape_from(parse([str(asked.tokens_folder), str(folder), *PROXY, *mine]))
    nats = float(np.mean(list(report.nats.values())))
    found = {"experts": experts, "seed": seed, "tokens": int(asked.tokens), **sizes(shape)}
    return found | {"nats": round(nats, 4), "bits_per_byte": round(report.bits_per_byte, 4)}


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m models.training.payoff", description=__doc__)
    parser.add_argument("tokens_folder", type=Path, metavar="TOKENS", help="the tokenised corpus")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=float, default=2e6, help="of each run")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help=DTYPE_HELP)
    asked = parser.parse_args()
    rows = []
    for seed, experts in product(range(asked.seeds), EXPERTS):
        rows.append(row(asked, seed, experts))
        log.info("%s", rows[-1])
        pd.DataFrame(rows).to_csv(asked.out / "payoff.csv", index=False)


if __name__ == "__main__":
    main()
