"""Answers about the embedded model, recorded once, so that the pages Prune, Lineage, Contrast and Routes open with one.

They are what cutting experts costs, what became of them in a checkpoint with one cut from each layer, whether turning
experts up helps, and how well tokens are routed. `python -m models.training.reference` makes the files, with
`--pruning`, `--steering` or `--routes`.
"""

import io
import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

from moeviz.analyses.lineage import Lineage
from moeviz.analyses.pruning.result import PruningCurve, split
from moeviz.embedded import EMBEDDED
from moeviz.embedded.recorded_routing import HERE, reference_routing
from moeviz.metrics.contrast import SteeringTrial
from moeviz.metrics.pruning import RANDOM, LayerLimits
from moeviz.metrics.routes import RouteRegret

PRUNING, LINEAGE, STEERING = (HERE / f"{name}.json" for name in ("pruning", "lineage", "steering"))
ROUTES = HERE / "routes.npz"
POSITIONS = 10  # tokens of each text whose routes are judged
CHILD = "embedded-cut"  # the name of that checkpoint: the expert of each layer is cut that REAP finds least needed
CRITERIA = ("reap", "frequency", RANDOM)
DRAWS, TOKENS, SEED = 3, 64, 0
TABLES = ("losses", "scores")
LISTED = {"base_experts": int, "parts": float}  # columns of tuples
FIGURES = ("similarity", "difference", "runner_up")  # of a lineage; NaN without a source


def recorded_curve(texts: Iterable[tuple[str, str]]) -> PruningCurve:
    """Read what cutting experts costs the embedded model on the texts that ship, 64 tokens of each, by two criteria.

    texts   of `moeviz.labelled_texts.texts_that_ship`.
    """
    facts = json.loads(PRUNING.read_text("utf-8"))
    words = dict.fromkeys(("criterion", "chosen_on", "judged_on"), "str")
    losses, scores = (
        pd.read_csv(io.StringIO(facts[name]), dtype=words, keep_default_na=False, na_values={"sd": ""})
        for name in TABLES
    )
    chose, judged = split(texts, SEED)
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


def recorded_steering() -> SteeringTrial:
    """Read the best way to turn a kind of text up in the embedded model, and what it does on other texts."""
    facts = json.loads(STEERING.read_text("utf-8"))
    return SteeringTrial(**facts | {"at_random": tuple(facts["at_random"])})


def recorded_routes() -> RouteRegret:
    """Read how well the embedded model routes ten tokens of each text that ships."""
    with np.load(ROUTES) as file:
        facts, cells = json.loads(str(file["facts"])), pd.read_parquet(io.BytesIO(file["cells"].tobytes()))
        return RouteRegret(cells, file["losses"], file["routes"], reference_routing().model, **facts)


def recorded_lineage() -> Lineage:
    """Read what became of the embedded model's experts in a checkpoint with one of each layer cut."""
    facts = json.loads(LINEAGE.read_text("utf-8"))
    types = {"layer": "int32", "expert": "int16", "base_layer": "int32", "what": "str"} | dict.fromkeys(LISTED, "str")
    table = pd.read_csv(
        io.StringIO(facts["table"]), dtype=types, keep_default_na=False, na_values=dict.fromkeys(FIGURES, "")
    )
    for name, kind in LISTED.items():
        table[name] = pd.Series([tuple(map(kind, some.split())) for some in table[name]], dtype=object)
    layers = {int(layer): base for layer, base in facts["layers"].items()}
    left_out = tuple(facts["left_out"][0]), tuple(facts["left_out"][1])
    limits = facts["chance"], facts["threshold"]
    return Lineage(table, EMBEDDED, CHILD, layers, tuple(facts["formats"]), *limits, left_out, {})
