"""Effects of an intervention, in a few figures, from the table that `moeviz.what_if` makes."""

import pandas as pd


def effect_by_token(effect: pd.DataFrame) -> pd.DataFrame:
    """Compute what a change of routing does to the prediction of each token.

    `effect` is the table of `moeviz.what_if`. One row per token. Columns: those of the table, and token int32 (its row)
    · loss_change float64 (nats: how much worse this token is predicted; NaN for the first token of a text) · another
    bool (whether a different next token is the most likely).

    Source: loss is the negative logarithm of the probability of the token that actually follows; kl is Kullback and
    Leibler (1951), KL(plain || changed) of the whole next-token distribution.
    """
    return effect.assign(
        token=pd.RangeIndex(len(effect)).astype("int32"),
        loss_change=effect["loss_changed"] - effect["loss"],
        another=effect["next_token"] != effect["next_token_changed"],
    )


def effect_summary(effect: pd.DataFrame) -> dict[str, float]:
    """Sum up a change of routing over a text: mean losses without and with it, mean KL, share of other next tokens."""
    return {
        "loss": float(effect["loss"].mean()),
        "loss_changed": float(effect["loss_changed"].mean()),
        "kl": float(effect["kl"].mean()),
        "another": float((effect["next_token"] != effect["next_token_changed"]).mean()),
    }
