"""Do Mixtral's parameter counts follow from its sizes, and does the embedded model behave like a small Mixtral?"""

import sys

import numpy as np

from history_checks.claims import IDENTITY, NOT_PRINTED, SHIPS, Claim
from history_checks.negative_controls import Control
from moeviz.capture.models.load import model_facts
from moeviz.embedded.recorded_routing import traces_over_training
from moeviz.metrics.coverage import experts_touched
from moeviz.metrics.locality import locality
from moeviz.model_info import ModelInfo
from moeviz.parameters import active_parameters
from moeviz.routing_trace import RoutingTrace

# As the papers and the makers print them, in billions: total and active.
PRINTED = {"mistralai/Mixtral-8x7B-v0.1": (47, 13), "mistralai/Mixtral-8x22B-v0.1": (141, 39)}
EXACT = {"mistralai/Mixtral-8x7B-v0.1": (46_702_792_704, 12_879_925_248)}
NEAR_CHANCE = 0.02
TOKENS_AT_ONCE = (1, 2, 4, 8, 16, 32)


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """The counts, and locality and coverage of the embedded model on its evaluation texts.

    Nothing is trained: only the counts are checks.
    """
    found = traces_over_training()
    trace = found[max(found)]
    return [*counts(), *_locality(trace), *_chance(trace), *_coverage(trace)]


def counts(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Parameters from the sizes alone, on the meta device."""
    rows = []
    for name, (total, active) in PRINTED.items():
        info = model_facts(name)
        ours_of = (info.parameters.total, active_parameters(info.parameters, info.top_k))
        for what, ours, printed in zip(("total", "active"), ours_of, (total, active), strict=True):
            right = round(ours / 1e9) == printed
            rows.append(Claim(f"{what} parameters of {name}, billions", ours / 1e9, printed, "to the digit", right))
        if name in EXACT:
            asked = f"exact, and active {EXACT[name][1]:,}"
            right = ours_of == EXACT[name]
            rows.append(Claim(f"total parameters of {name}, one by one", ours_of[0], EXACT[name][0], asked, right))
    return rows


def _locality(trace: RoutingTrace) -> list[Claim]:
    """Table 5: consecutive tokens share experts more often in deep layers than in the first."""
    rows = []
    for choice, frame in locality(trace).groupby("choice", sort=False):
        first, last = frame["share"].iloc[0], frame["share"].iloc[-1]
        what = f"share of neighbouring tokens with the same {choice}, last layer minus first"
        rows.append(Claim(what, last - first, NOT_PRINTED, "above 0", bool(last > first), "the embedded model", SHIPS))
    return rows


def _chance(trace: RoutingTrace) -> list[Claim]:
    """Tokens in any order repeat as often as their loads make them."""
    order = np.random.default_rng(0).permutation(len(trace.tokens))
    tokens = trace.tokens.assign(sequence=np.int32(0), position=np.arange(len(order), dtype=np.int32))
    mixed = locality(RoutingTrace(trace.model, tokens, trace.experts[:, order]))
    off = float((mixed["share"] - mixed["load_chance"]).abs().max())
    what = "the same for tokens in any order, largest difference from what their loads make likely"
    return [Claim(what, off, NOT_PRINTED, f"below {NEAR_CHANCE}", off < NEAR_CHANCE, "the embedded model", IDENTITY)]


def _coverage(trace: RoutingTrace) -> list[Claim]:
    """Claim that T tokens with two experts each use 8 (1 − (3/4)^T) of 8 at random: a batch soon uses them all."""
    touched = experts_touched(trace.select(layers=trace.model.layers[:1], tokens=slice(0, max(TOKENS_AT_ONCE))))
    chance, used = (touched.set_index("tokens")[column] for column in ("chance", "experts"))
    formula = [8 * (1 - (3 / 4) ** tokens) for tokens in TOKENS_AT_ONCE]
    off = float(np.abs(chance.loc[list(TOKENS_AT_ONCE)].to_numpy() - formula).max())
    what = "experts that 1 to 32 tokens use at random, furthest from 8 (1 − (3/4)^T)"
    remark = f"the embedded model: {used.iloc[-1]} of 8 by 32 tokens"
    return [Claim(what, off, NOT_PRINTED, "below 1e-9", off < 1e-9, remark, IDENTITY)]


def _embedded(name: str, right=model_facts) -> ModelInfo:
    return right("embedded")


HERE = sys.modules[__name__]
CONTROLS = (
    Control("the configuration of another model", (HERE, "model_facts", _embedded), ("parameters of",), counts),
)
