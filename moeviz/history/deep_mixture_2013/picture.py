"""The picture of the deep mixture's paper, in numbers: whether the gates respond to where a digit is or to what it is.

L layers, C digits, P places, E experts.

Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), figure 2.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from moeviz.history.deep_mixture_2013.model import DeepMixture
from moeviz.history.deep_mixture_2013.moved_digits import moves
from moeviz.history.shared.results import SHIPPED, WITHOUT_BALANCE, shipped

LAYERS = (1, 2)  # as the paper counts
FACTORS = ("where", "what")


def with_and_without(result: DeepMixture) -> dict[bool, DeepMixture]:
    """A run with the constraint and one without it: this one, and of what ships the one that it is to be held against.

    They differ in the constraint alone where this one has the default settings.
    """
    mine = bool(result.settings["constraint"])
    return {mine: result, not mine: shipped(DeepMixture, WITHOUT_BALANCE if mine else SHIPPED)}


def gate_by_factor(result: DeepMixture) -> pd.DataFrame:
    """The mean gate of every expert for digits at one place, and for digits of one kind: figure 2 of the paper.

    Averaged over all test digits at all 81 positions, so that every position has the same digits and every digit the
    same positions. For one position, or one digit, the gates of a layer's experts sum to 1.

    One row per layer, expert and position, then one per layer, expert and digit. Columns: layer int32 (1 or 2) · expert
    int16 · factor str (where or what) · right, down int16 (pixels from the middle; 0 for what) · digit int16 (-1 for
    where) · gate float64 · uniform float64 (1 / E).

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), figure 2.
    """
    frames = [
        _rows(gate, layer, factor)
        for factor in FACTORS
        for layer, gate in zip(LAYERS, _means(result)[factor], strict=True)
    ]
    kinds = {"layer": np.int32} | dict.fromkeys(("expert", "right", "down", "digit"), np.int16)
    return pd.concat(frames, ignore_index=True).astype({**kinds, "factor": "str"})


def factor_information(result: DeepMixture) -> pd.DataFrame:
    """How much the gates of each layer tell about where a digit is, and about what it is, from 0 to 1.

    Draw a test digit, a position for it, and then an expert with the probabilities that the gate gives. `information`
    is the mutual information of the expert and the factor (the 81 positions, or the 10 digits): the entropy of the mean
    gate minus the mean entropy of the mean gates by position or digit, as a share of ln E, the entropy of a uniform
    gate. It is computed from mean gates, so whatever a gate does for other reasons does not count.

    One row per layer and factor. Columns: layer int32 · factor str (where or what) · information float64 (from 0 to 1).

    Source: Shannon (1948), section 12, of the mean gates in figure 2 of Eigen, Ranzato & Sutskever, arXiv 1312.4314
    (2013). The paper shows the figure but prints no such number.
    """
    weights = {"where": np.full(result.mean_gate.shape[2], 1.0), "what": result.digits_of_kind}
    rows = [
        (layer, factor, information(gate, weights[factor]))
        for factor, gates in _means(result).items()
        for layer, gate in zip(LAYERS, gates, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["layer", "factor", "information"])
    return frame.astype({"layer": np.int32, "factor": "str"}).sort_values("layer", kind="stable", ignore_index=True)


def shares(result: DeepMixture) -> pd.DataFrame:
    """Each expert's share of its layer: the mean gate over all test digits at all positions, after training.

    One row per layer and expert. Columns: layer int32 (1 or 2) · expert int16 · share float64 (sums to 1 in a layer).

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), whose constraint is on running totals of the gates.
    """
    share = _means(result)["where"].mean(axis=1)
    layer, expert = np.indices(share.shape).reshape(2, -1)
    columns = {"layer": np.asarray(LAYERS, np.int32)[layer], "expert": expert.astype(np.int16)}
    return pd.DataFrame(columns).assign(share=share.ravel())


def share_by_epoch(result: DeepMixture) -> pd.DataFrame:
    """How the experts of each layer came to divide the work: the mean gate over the training digits of each epoch.

    `lead` is how far an expert's running total is ahead of the mean of its layer at the end of the epoch, which is what
    the constraint limits: the sum of its gate over all samples so far, minus that mean.

    One row per epoch, layer and expert. Columns: epoch int32 (from 1) · layer int32 (1 or 2) · expert int16 · share
    float64 (sums to 1 in a layer) · uniform float64 (1 / E) · lead float64 (samples) · bound bool (whether the
    constraint held in that epoch).

    Source: Eigen, Ranzato & Sutskever, arXiv 1312.4314 (2013), whose constraint is on running totals of the gate.
    """
    share = result.shares.astype(np.float64)
    totals = result.samples * share.cumsum(axis=0)
    epoch, layer, expert = np.indices(share.shape).reshape(3, -1)
    columns = {
        "epoch": (epoch + 1).astype(np.int32),
        "layer": np.asarray(LAYERS, np.int32)[layer],
        "expert": expert.astype(np.int16),
        "share": share.ravel(),
        "uniform": 1 / share.shape[2],
        "lead": (totals - totals.mean(axis=2, keepdims=True)).ravel(),
        "bound": epoch < result.bound,
    }
    return pd.DataFrame(columns)


def information(gate: Float[np.ndarray, "K E"], weight: np.ndarray) -> float:
    """Mutual information of expert and factor in parts of ln E, from the mean gate by value and each value's weight."""
    weight = np.asarray(weight, np.float64) / np.sum(weight)
    mean = weight[None] @ gate
    apart = _entropy(mean)[0] - weight @ _entropy(gate)
    return float(max(apart, 0.0) / np.log(gate.shape[1]))


def _means(result: DeepMixture) -> dict[str, np.ndarray]:
    """The mean gate by place, (L, P, E), and by digit, (L, C, E)."""
    gate = result.mean_gate.astype(np.float64)
    share = result.digits_of_kind / result.digits_of_kind.sum()
    return {"where": np.einsum("lcpe,c->lpe", gate, share), "what": gate.mean(axis=2)}


def _rows(gate: np.ndarray, layer: int, factor: str) -> pd.DataFrame:
    values, experts = gate.shape
    value = np.repeat(np.arange(values), experts)
    right, down = moves(value) if factor == "where" else (0, 0)
    return pd.DataFrame(
        {
            "layer": layer,
            "expert": np.tile(np.arange(experts), values),
            "factor": factor,
            "right": right,
            "down": down,
            "digit": value if factor == "what" else -1,
            "gate": gate.ravel(),
            "uniform": 1 / experts,
        }
    )


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1)
