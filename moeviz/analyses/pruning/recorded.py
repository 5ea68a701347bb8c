"""What cutting experts costs the embedded model, recorded once, so that the page Prune opens with an answer.

`python -m models.training.reference --pruning` makes the file.
"""

import io
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from moeviz.analyses.pruning.curve import PruningCurve, split
from moeviz.embedded.recorded_routing import HERE, reference_routing
from moeviz.labelled_texts import texts_that_ship
from moeviz.metrics.pruning import RANDOM, LayerLimits

FILE = HERE / "pruning.json"
CRITERIA = ("reap", "frequency", RANDOM)
DRAWS, TOKENS, SEED = 3, 64, 0
TABLES = ("losses", "scores")


def written(curve: PruningCurve) -> str:
    """Return a curve of the texts that ship as JSON: its tables as CSV, what it rests on, and its draws."""
    tables = {name: getattr(curve, name).to_csv(index=False, float_format="%.7g") for name in TABLES}
    limits = {layer: asdict(of) for layer, of in curve.limits.items()}
    drawn = [[in_all, cut, *losses] for (in_all, cut), losses in curve.drawn.items()]
    facts = {"loss": curve.loss, "blocks": dict(curve.blocks), "limits": limits, "drawn": drawn}
    return json.dumps(tables | facts, indent=1) + "\n"


def recorded_curve(file: Path = FILE) -> PruningCurve:
    """Read what cutting experts costs the embedded model on the texts that ship, 64 tokens of each, by two criteria."""
    facts = json.loads(file.read_text("utf-8"))
    words = dict.fromkeys(("criterion", "chosen_on", "judged_on"), "str")
    losses, scores = (
        pd.read_csv(io.StringIO(facts[name]), dtype=words, keep_default_na=False, na_values={"sd": ""})
        for name in TABLES
    )
    chose, judged = split(texts_that_ship(), SEED)
    return PruningCurve(
        reference_routing().model,
        {int(layer): path for layer, path in facts["blocks"].items()},
        losses,
        scores,
        {int(layer): LayerLimits(**of) for layer, of in facts["limits"].items()},
        facts["loss"],
        chose,
        judged,
        SEED,
        TOKENS,
        drawn={(bool(in_all), int(cut)): tuple(losses) for in_all, cut, *losses in facts["drawn"]},
    )
