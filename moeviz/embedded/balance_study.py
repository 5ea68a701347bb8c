"""Where the load has to be even, and what that does to experts: the study in the model card, as figures.

The models are trained by `python -m models.training.study`; their figures ship, their weights do not.
"""

from pathlib import Path

import pandas as pd

TABLE = Path(__file__).with_suffix(".csv")


def balance_study() -> pd.DataFrame:
    """The twelve models, a row each: four settings, three seeds.

    Columns: balanced_over str (batch: of many texts; window: each window of one text) · mutual_information float64 (the
    coefficient that pushes experts to tell kinds of text apart) · seed int64 · nats float64 (held-out loss of a token,
    mean over kinds) · bits_per_byte float64 · information float64 (bits that an expert tells about the kind of text) ·
    repeats, repeats_any float64 (shares of tokens with the same first choice as the token before, and with at least one
    expert in common with it). The last three are means over layers.
    """
    return pd.read_csv(TABLE)


def study_means() -> pd.DataFrame:
    """Means over the seeds, by balanced_over and mutual_information. Columns: those of `balance_study` from nats on."""
    return balance_study().groupby(["balanced_over", "mutual_information"]).mean().drop(columns="seed")


def said_of_study() -> str:
    """Sum up the study in a sentence of its figures: what makes experts follow kinds of text, and what that costs."""
    means = study_means()
    told, cost = means["information"], means["nats"]["window", 0.0] - means["nats"]["batch", 0.0]
    return (
        f"In a study of {len(balance_study())} smaller models, experts told {told['batch', 0.0]:.2f} bits about the "
        f"kind of text where balance was counted over batches, {told['window', 0.0]:.2f} where it was counted within "
        f"each text, and that cost {cost:.2f} nats a token."
    )
