"""What `moeviz what-if` runs and says."""

from argparse import Namespace
from typing import cast

import pandas as pd
from transformers import PreTrainedTokenizerBase

from moeviz.capture.interventions.intervention import Intervention
from moeviz.capture.interventions.precision import Precision
from moeviz.capture.interventions.table import INTERVENTIONS
from moeviz.capture.precisions import PrecisionTrace
from moeviz.capture.what_if import WhatIf
from moeviz.cli.terminal import frame_text
from moeviz.formats.exports import read_trace
from moeviz.metrics.agreement import set_changes


def intervention_of(args: Namespace) -> Intervention | Precision:
    """The one change that was asked for."""
    asked = (option for option in INTERVENTIONS if getattr(args, option.name) is not None)
    return cast(Intervention | Precision, next(asked).make(args, read_trace))


def effect_text(result: WhatIf, tokenizer: PreTrainedTokenizerBase) -> str:
    """The effect, token by token, and what it comes to."""
    effect, columns = result.effect, ("next_token", "next_token_changed")
    texts = {name: effect[name].map(lambda token: tokenizer.decode([token])) for name in columns}
    another = (effect["next_token"] != effect["next_token_changed"]).mean()
    loss = effect[["loss", "loss_changed"]].mean()
    return "\n".join(
        [
            frame_text(effect.drop(columns=["sequence"]).assign(**texts).round(4)),
            "",
            f"loss per token           {loss['loss']:.4f} -> {loss['loss_changed']:.4f} nats",
            f"KL, mean of tokens     {effect['kl'].mean():.4f} nats",
            f"most likely token      differs after {another:.0%} of the tokens",
        ]
    )


def precision_table(found: dict[str, PrecisionTrace]) -> pd.DataFrame:
    """By precision and layer: tokens that are sent to another set of experts than in float32, by tie or not."""
    exact = found["float32"].trace
    tables = []
    for name, other in found.items():
        if name != "float32":
            table = set_changes(exact, other.trace, other.tied)
            unknown = [not known for known in other.known]
            table.loc[unknown, ["tied", "flipped"]] = float("nan")
            tables.append(table.assign(precision=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["precision", *table.columns.drop("precision")]]
