"""The routing of our own models, recorded once, so that pages show it without a model.

The example is the app's first text; the reference routing is of sixty held-out texts of fifteen kinds, together with
the table of all experts, the loss of each kind without each of them, and the bias on the choice of one model; the
routing over training is of the same texts at several points of the training.
`models.training.example`, `models.training.reference` and the training itself make the files.

The figures of the study in the model card are here too: where the load must be even, and what that does to experts. Its
models are trained by `python -m models.training.study`; their figures ship, their weights do not.
"""

import json
import math
from pathlib import Path

import pandas as pd

from moeviz.embedded import EMBEDDED
from moeviz.embedded.evaluation import evaluation_set
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.formats.trace_file import from_trace_file
from moeviz.routing_trace import RoutingTrace

HERE = Path(__file__).parent
EXAMPLE = HERE / "example.npz"
ROUTING = {EMBEDDED: HERE / "reference.npz", NATURAL: HERE / "natural.npz", FINE: HERE / "fine.npz"}
MUTED = HERE / "muted.csv"
TABLES = {EMBEDDED: HERE / "experts.csv", NATURAL: HERE / "natural_experts.csv", FINE: HERE / "fine_experts.csv"}
BIAS = HERE / "fine_bias.csv"
CHANCE = HERE / "names_by_chance.json"
STUDY = HERE / "balance_study.csv"
DIGITS = 5  # of the figures in tables
KINDS = {"layer": "int32", "expert": "int16", "label": "str"}
NUMBERS = (  # of TABLES that are empty where nothing is known
    *("share", "times_uniform", "mean_weight", "norm", "added", "greatest", "cosine", "residual", "lift", "q", "spec"),
    *("precision", "recall", "f1", "f1_token", "f1_kind", "f1_position"),
    *("followed", "usual", "everywhere", "beyond", "cosine_of_weights", "cosine_of_outputs", "loss_change"),
)
OVER_TRAINING = HERE / "routing_over_training"
CHARACTERS = 400  # of each text of the evaluation set: enough to see routing, and small to ship


def example_trace() -> RoutingTrace:
    """Read the trace of the app's first example: ids, weights, logits, next tokens; a text in several languages."""
    return from_trace_file(EXAMPLE.read_bytes())


def reference_routing(name: str = EMBEDDED) -> RoutingTrace:
    """Read the trace of the held-out texts by one of our own models: labels, ids and weights.

    This works without the weights of a sibling.
    """
    return from_trace_file(ROUTING[name].read_bytes())


def muted_experts() -> pd.DataFrame:
    """Read the losses of each kind of text with each expert muted; columns of `muting.muted_by_label`."""
    return pd.read_csv(MUTED, dtype=KINDS)


def expert_table_of(name: str = EMBEDDED) -> pd.DataFrame:
    """Read the table of all experts of one of our own models on the held-out texts, as `moeviz experts` makes it.

    Columns: those of `moeviz.metrics.expert_table.expert_table`, `with_writing` and `with_twins`; and for the embedded
    model loss_change float64, in nats per token, with the expert muted.
    """
    words = dict.fromkeys(("kind", "keeps", "role", "name", "writes"), "str")
    ids = {"layer": "int32", "expert": "int16", "twin_by_weights": "int16", "twin_by_outputs": "int16"}
    return pd.read_csv(TABLES[name], dtype=words | ids, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, ""))


def names_by_chance() -> dict[str, list[int]]:
    """Return, by model, the names of experts that hold with the routing of other texts, twelve times.

    Made by `moeviz.metrics.expert_names.names_by_chance`; a test computes it anew.
    """
    found: dict[str, list[int]] = json.loads(CHANCE.read_text("utf-8"))
    return found


def fine_bias() -> pd.DataFrame:
    """Read the bias that the router of the sibling with many small experts adds to their scores before it chooses.

    One row per layer and expert, in their order. Columns: layer int32 · expert int16 · bias float64.
    """
    return pd.read_csv(BIAS, dtype=KINDS)


def texts_over_training() -> list[tuple[str, str]]:
    """Return the (label, text) pairs that every recorded trace is of."""
    return [(text.label, text.text[:CHARACTERS]) for text in evaluation_set()]


def traces_over_training() -> dict[int, RoutingTrace]:
    """Read the recorded traces by the number of tokens trained on, the finished model last. Ids only."""
    files = sorted(OVER_TRAINING.glob("tokens-*.npz"))
    return {int(file.stem.removeprefix("tokens-")): from_trace_file(file.read_bytes()) for file in files}


def balance_study() -> pd.DataFrame:
    """Read the figures of the twelve models, a row each: four settings, three seeds.

    Columns: balanced_over str (batch: of many texts; window: each window of one text) · mutual_information float64 (the
    coefficient that pushes experts to separate kinds of text) · seed int64 · nats float64 (held-out loss of a token,
    mean over kinds) · bits_per_byte float64 · information float64 (bits of an expert about the kind of text) ·
    repeats, repeats_any float64 (shares of tokens with the same first choice as the token before, and with at least one
    expert in common with it). The last three are means over layers.
    """
    return pd.read_csv(STUDY)


def study_means() -> pd.DataFrame:
    """Means over the seeds, by balanced_over and mutual_information. Columns: those of `balance_study` from nats on."""
    return balance_study().groupby(["balanced_over", "mutual_information"]).mean().drop(columns="seed")


def said_of_study() -> str:
    """Sum up the study in a sentence of its figures: what makes experts follow kinds of text, and what that costs."""
    means = study_means()
    bits, cost = means["information"], means["nats"]["window", 0.0] - means["nats"]["batch", 0.0]
    worse = f"{abs(math.expm1(cost)):.0%} {'higher' if cost > 0 else 'lower'}"
    return (
        f"In a study of {len(balance_study())} smaller models, a token's expert tells {bits['batch', 0.0]:.2f} bits "
        f"of at most 3 about the kind of its text if balance was counted over batches, and {bits['window', 0.0]:.2f} "
        f"if within each text; and the perplexity of the latter was {worse}."
    )
