"""Which experts can a model do without? The loss on held-out texts without the least of each layer, by four criteria.

    python -m benchmarks.experts_left_out [MODEL ...] [--counts 1 2] [--draws 6]

A criterion is read off the first half of the texts that ship (every other one), by `moeviz experts`: mean gate x norm,
the share of assignments, the mean weight. The experts of each layer that have the least of it are muted, and tokens go
to the router's next best; printed is how much worse the other half of the texts is predicted, in nats a token, and the
mean and standard deviation of random choices beside it.
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

import moeviz
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.record.intervening import probe_routers
from moeviz.capture.run.prompts import prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.what_if import read_batch
from moeviz.embedded.own_models import installed
from moeviz.labelled_texts import texts_that_ship
from moeviz.metrics.expert_table import expert_table, least_needed

CRITERIA = {"gate x norm": "added", "share": "share", "mean weight": "mean_weight"}


@torch.no_grad()
def loss(model: moeviz.LoadedModel, texts: Sequence[str], muted: Mapping[int, tuple[int, ...]] | None = None) -> float:
    """Mean loss, in nats a predicted token, over all texts, with some experts of each layer muted."""
    total, tokens = 0.0, 0
    routers = probe_routers(prepare(model, CaptureRequest((texts[0][:100],)))) if muted else ()
    for text in texts:
        run = prepare(model, CaptureRequest((text,)))
        _, logits = read_batch(run, routers, Mute(dict(muted)) if muted else None)
        ids = run.batch.input_ids[0]
        total += float(torch.nn.functional.cross_entropy(logits[:-1].float(), ids[1:], reduction="sum"))
        tokens += len(ids) - 1
    return total / tokens


def left_out(
    model: moeviz.LoadedModel, texts: Sequence[tuple[str, str]], counts: Sequence[int] = (1, 2), draws: int = 6
) -> pd.DataFrame:
    """One row per number of experts left out of each layer. Columns: experts, the criteria, random, random_sd."""
    calibration, held_out = texts[0::2], [text for _, text in texts[1::2]]
    table = expert_table(moeviz.trace_corpus(model, calibration, outputs=True))
    plain, rng, rows = loss(model, held_out), np.random.default_rng(0), []
    for count in counts:
        row = {name: loss(model, held_out, least_needed(table, by, count)) - plain for name, by in CRITERIA.items()}
        chance = []
        for _ in range(draws):
            at_random = least_needed(table.assign(random=rng.random(len(table))), "random", count)
            chance.append(loss(model, held_out, at_random) - plain)
        rows.append({"experts": count} | row | {"random": np.mean(chance), "random_sd": np.std(chance)})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table of each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(installed()))
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--draws", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.models:
        found = left_out(moeviz.load_model(name), texts_that_ship(), args.counts, args.draws)
        print(f"{name}\n{found.round(3).to_string(index=False)}\n", flush=True)


if __name__ == "__main__":
    main()
