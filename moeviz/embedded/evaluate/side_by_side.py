"""Several models in one table: the losses and the routing of each on the same held-out texts, a column a model."""

from collections.abc import Sequence

import pandas as pd

from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel, load_model
from moeviz.embedded.evaluate.losses import loss_by_domain
from moeviz.embedded.evaluate.recognition import mistaken
from moeviz.embedded.evaluation import EvaluationText
from moeviz.embedded.own_models import OWN_MODELS
from moeviz.metrics.load import balance
from moeviz.metrics.multi_trace import figures_of_several
from moeviz.parameters import CONVENTIONS, active_parameters


def side_by_side(names: Sequence[str], texts: Sequence[EvaluationText]) -> pd.DataFrame:
    """Evaluate each model on these texts; one model is in memory at a time.

    One row per measure, then one per domain (bits per byte). Columns: measure str · one str per model, by its name.
    """
    columns = {}
    for name in dict.fromkeys(names):
        columns[name] = column(load_model(name), texts)
    frame = pd.DataFrame(columns)
    return frame.rename_axis("measure").reset_index()


def column(model: LoadedModel, texts: Sequence[EvaluationText]) -> dict[str, str]:
    """The measures of one model, as text."""
    losses = loss_by_domain(model, texts)
    recorded = trace_corpus(model, ((text.label, text.text) for text in texts))
    (row,) = figures_of_several({model.name: recorded}).to_dict("records")
    loads, own = balance(recorded), OWN_MODELS.get(model.name)
    return {
        **_sizes(model),
        "tokens of training": "not known" if own is None else f"{own.tokens:,}",
        "load kept even by": "not known" if own is None else own.balance,
        "bits/byte, mean of kinds of text": f"{losses['model'].mean():.3f}",
        "nats/token, mean of kinds of text": f"{losses['nats'].mean():.3f}",
        "first choice repeats, beyond chance": f"{row['repetition']:.3f}",
        "the same, by the loads alone": f"{row['repetition_by_load']:.3f}",
        "MI(expert; kind of text), bits": f"{row['information']:.3f}",
        "the same, kinds shuffled": f"{row['shuffled']:.3f}",
        "busiest / mean load, mean of layers": f"{row['busiest']:.3f}",
        "the same, highest layer": f"{loads['max_over_mean'].max():.3f}",
        "the same, at random": f"{row['busiest_by_lot']:.3f}",
        "dead experts, all layers": f"{loads['dead_experts'].sum():d}",
        "sets of experts, mean of layers": f"{row['sets']:,.0f} of {row['possible_sets']:,.0f}",
        "kinds told by routing alone": f"{len(texts) - len(mistaken(model, texts))} of {len(texts)} texts",
        **{f"bits/byte, {kind}": f"{bits:.3f}" for kind, bits in zip(losses["domain"], losses["model"], strict=True)},
    }


def _sizes(model: LoadedModel) -> dict[str, str]:
    info = model.info
    if info.parameters is None:
        return {}
    active = active_parameters(info.parameters, info.top_k, CONVENTIONS[0])
    experts = f"{info.top_k} of {max(info.num_experts)}"
    return {"parameters": f"{info.parameters.total:,}", "active a token": f"{active:,}", "experts a token": experts}
