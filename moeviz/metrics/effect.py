"""What an intervention does, in a few figures: a reading of the table that `moeviz.what_if` makes."""

import pandas as pd


def effect_by_token(effect: pd.DataFrame) -> pd.DataFrame:
    """What a change of routing does to each token's prediction.

    `effect` is the table of `moeviz.what_if`. One row per token. Columns: those of the table, and token int32 (its
    row) · loss_change float64 (nats: how much worse this token is predicted; NaN for the first of a text) · another
    bool (whether the likeliest next token is another one).

    Source: loss is the negative logarithm of the probability of the token that came; kl is Kullback and Leibler (1951),
    plain || changed, of the whole distribution of the next token.
    """
    return effect.assign(
        token=pd.RangeIndex(len(effect)).astype("int32"),
        loss_change=effect["loss_changed"] - effect["loss"],
        another=effect["next_token"] != effect["next_token_changed"],
    )


def effect_summary(effect: pd.DataFrame) -> dict[str, float]:
    """The same for the whole text: mean loss as it is and changed, mean KL (nats), share of other next tokens."""
    return {
        "loss": float(effect["loss"].mean()),
        "loss_changed": float(effect["loss_changed"].mean()),
        "kl": float(effect["kl"].mean()),
        "another": float((effect["next_token"] != effect["next_token_changed"]).mean()),
    }
