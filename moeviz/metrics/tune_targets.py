"""The experts to fine-tune for a task: those that its texts use most, and more than other texts do."""

import numpy as np
import pandas as pd

from moeviz.claims import Claim
from moeviz.errors import InvalidTrace, MissingField
from moeviz.metrics import captions
from moeviz.metrics.contrast import ONE_MODEL, Pair, shares_of_texts, told_apart
from moeviz.metrics.inputs import check_one_model, needs_tokens
from moeviz.text import quoted

SCORES = ("token", "gate")
SHARE = 0.2  # of a layer's work, as in the paper


@needs_tokens
def tune_targets(pair: Pair, score: str = "token", share: float = SHARE) -> pd.DataFrame:
    """Find the experts that do most of the work on a task's texts, and those of them that are specific to it.

    In each layer, experts are taken from the highest score down until their scores add up to `share`: this is ESFT's
    rule, and it takes experts that do much on any text too. A target is one of these that the task's texts also use
    more than other texts do, beyond chance (`contrast`).

    pair    two traces of one model: of the task's texts, and of others.
    score   "token": the share of a text's slots that an expert has. "gate": its weights' share of a text's.
    share   of a layer's scores, above 0 and at most 1.

    Scores are means over texts, so a text counts once, however long it is. A layer's scores add up to 1.

    One row per layer and expert. Columns: layer int32 · expert int16 · score, base_score float64 (on the task's texts,
    and on the others) · q float64 (false discovery rate of the difference) · in_esft bool (by the first rule) · target
    bool (by both).

    Raises `InvalidTrace` for another score or share, and what `contrast` raises; `MissingField` where weights are
    asked for and not recorded.

    Source: the expert relevance scores of ESFT (arXiv 2407.01906); its rule compares with neither other texts nor
    chance.
    """
    if score not in SCORES:
        raise InvalidTrace(f"There is no score {quoted(score)}. Choose one of {', '.join(SCORES)}.")
    if not 0 < share <= 1:
        raise InvalidTrace(f"Experts are chosen for a share of a layer's work above 0 and at most 1, not {share}.")
    check_one_model(*pair, ONE_MODEL)
    if score == "gate" and any(trace.weights is None for trace in pair):
        raise MissingField(
            "Gate scores need the weights of the experts. Trace both with weights, or take token scores."
        )
    model = pair[0].model
    starts = np.cumsum([0, *model.num_experts[:-1]])
    of_texts = []
    for trace in pair:
        found = shares_of_texts(trace, trace.weights if score == "gate" else None)
        sums = np.add.reduceat(found, starts, axis=1).repeat(model.num_experts, axis=1)
        of_texts.append(found / np.where(sums > 0, sums, 1))
    told = told_apart(model, *of_texts)
    in_esft = np.concatenate([_first_to(share, part) for part in np.split(told["share"].to_numpy(), starts[1:])])
    return pd.DataFrame(
        {
            "layer": told["layer"],
            "expert": told["expert"],
            "score": told["share"],
            "base_score": told["other_share"],
            "q": told["q"],
            "in_esft": in_esft,
            "target": in_esft & told["holds"] & (told["difference"] > 0),
        }
    )


def _first_to(share: float, scores: np.ndarray) -> np.ndarray:
    """Mark the fewest experts whose highest scores add up to the share; ties go by the lower id."""
    order = np.argsort(-scores, kind="stable")
    before = np.cumsum(scores[order]) - scores[order]
    chosen = np.zeros(len(scores), bool)
    chosen[order[before < share - 1e-12]] = True
    return chosen & (scores > 0)


def tune_targets_sentence(found: pd.DataFrame, share: float = SHARE) -> Claim:
    """Claim how many experts ESFT's rule takes, and how many of them are of this task. Columns: of `tune_targets`."""
    esft, targets = int(found["in_esft"].sum()), int(found["target"].sum())
    return captions.tune_targets(esft, len(found), share, found["layer"].nunique(), targets)
