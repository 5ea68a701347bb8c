"""What `moeviz what-if` runs and says."""

import re
from argparse import Namespace

import pandas as pd
from transformers import PreTrainedTokenizerBase

from moeviz.capture.change.intervention import Intervention
from moeviz.capture.change.kinds import Exchange, Force, Mute, Replay, TopK
from moeviz.capture.change.limits import Experts
from moeviz.capture.change.precision import InPrecision, Precision
from moeviz.capture.change.what_if import WhatIf
from moeviz.cli.terminal import frame_text
from moeviz.errors import CaptureError
from moeviz.formats.exports import read_trace
from moeviz.metrics.comparison import set_changes


def intervention_of(args: Namespace) -> Intervention | Precision:
    """The one change that was asked for."""
    if args.precision:
        return Precision(args.precision)
    if args.replay is not None:  # "" too is a name, of no file
        return Replay(read_trace(args.replay))
    if args.exchange:
        return Exchange(*args.exchange)
    if args.experts_per_token is not None:
        return TopK(args.experts_per_token)
    if args.force:
        return Force(_experts(args.force))
    return Mute(_experts(args.mute), reroute=not args.no_reroute)


def _experts(asked: list[str]) -> Experts:
    """{3: (1, 4)} from "3:1,4"."""
    experts = {}
    for text in asked:
        if not re.fullmatch(r"\d{1,9}:\d{1,9}(,\d{1,9})*", text):
            raise CaptureError(f"{text!r} names no experts. Write LAYER:EXPERT, or LAYER:EXPERT,EXPERT for several.")
        layer, ids = text.split(":")
        experts[int(layer)] = (*experts.get(int(layer), ()), *map(int, ids.split(",")))
    return experts


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


def precision_table(found: dict[str, InPrecision]) -> pd.DataFrame:
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
