"""Measures of a model on the evaluation set: its losses, kinds of text told by routing alone, and several models.

Losses are by domain, by position, and with more or less text before.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from models.evaluate.byte_models import byte_models
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel, load_model
from moeviz.capture.trace import trace
from moeviz.embedded import EMBEDDED
from moeviz.embedded.evaluation import DOMAINS, EvaluationText
from moeviz.embedded.own_models import OWN_MODELS
from moeviz.embedded.recorded_routing import texts_over_training, traces_over_training
from moeviz.metrics.label_similarity import label_similarity
from moeviz.metrics.load import balance
from moeviz.metrics.multi_trace import figures_of_several
from moeviz.parameters import CONVENTIONS, active_parameters
from moeviz.routing_trace import RoutingTrace

POSITIONS = (1, 50, 150, 250, 500, 750, 950, 1_021)  # edges of the ranges that losses are averaged over
LATE = 950  # the tokens from here on are also read with SHORT tokens before them
SHORT = 200


@torch.no_grad()
def token_nats(model: LoadedModel, ids: list[int]) -> np.ndarray:
    """Loss in nats of every token but the first, given those before it."""
    tokens = torch.tensor([ids], device=model.model.device)
    logits = model.model(tokens[:, :-1]).logits[0].float()
    return torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none").cpu().numpy()


def loss_by_domain(model: LoadedModel, texts: Sequence[EvaluationText]) -> pd.DataFrame:
    """Bits per byte on each domain, beside those of the domain's own byte models on the same bytes.

    The whole loss of a text, its first token given <s> included, over its bytes in UTF-8: so tokenizers, and models of
    bytes, compare.

    One row per domain. Columns: domain str · tokens int64 · bytes int64 · nats float64 (a token) · model float64 ·
    trigram float64 · unigram float64 (all three in bits per byte).

    Source: bits per byte as in The Pile (arXiv 2101.00027), section 3.1. Byte models: `models.evaluate.byte_models`.
    """
    rows, yardsticks = [], byte_models()
    for domain, label in DOMAINS.items():
        mine = [text for text in texts if text.domain == domain]
        nats = np.concatenate([token_nats(model, model.tokenizer(text.text)["input_ids"]) for text in mine])
        content = "".join(text.text for text in mine).encode()
        bits = {"trigram": 3, "unigram": 1}
        rows.append(
            {
                "domain": label,
                "tokens": len(nats),
                "bytes": len(content),
                "nats": float(nats.mean()),
                "model": float(nats.sum()) / math.log(2) / len(content),
            }
            | {name: yardsticks[domain].bits_per_byte(content, order) for name, order in bits.items()}
        )
    return pd.DataFrame(rows)


def loss_by_position(model: LoadedModel, texts: Sequence[EvaluationText]) -> pd.DataFrame:
    """Loss by how far into the text a token stands; every text counts at every position.

    One row per range of positions. Columns: first int64 · last int64 · nats float64 (mean a token).

    Source: loss over positions as in Kaplan et al. (arXiv 2001.08361), section 3.3 and appendix D.5.
    """
    losses = np.stack([token_nats(model, _of_one_length(model, text)) for text in texts])
    ranges = list(pairwise(POSITIONS))
    rows = [(first, last - 1, losses[:, first - 1 : last - 1].mean()) for first, last in ranges]
    return pd.DataFrame(rows, columns=["first", "last", "nats"])


def context_gain(model: LoadedModel, texts: Sequence[EvaluationText]) -> pd.DataFrame:
    """Compare the loss of tokens late in a text with all the text before them and with its last stretch alone.

    What a model gains from more context, with the words held fixed: position alone also changes what is written there.

    One row per context. Columns: context str · nats float64 (mean a token over the same tokens).
    """
    full, short = [], []
    for text in texts:
        ids = _of_one_length(model, text)
        full.append(token_nats(model, ids)[LATE - 1 :])
        short.append(token_nats(model, [ids[0], *ids[LATE - SHORT :]])[SHORT:])
    rows = [("all that stands before", np.mean(full)), (f"the last {SHORT} tokens or a little more", np.mean(short))]
    return pd.DataFrame(rows, columns=["context", "nats"])


def _of_one_length(model: LoadedModel, text: EvaluationText) -> list[int]:
    """The text's ids, cut to the length that all texts of the set reach."""
    return model.tokenizer(text.text)["input_ids"][: POSITIONS[-1]]


STRETCH = slice(500, 620)  # characters of a text that tell its kind; the recorded beginnings are of the first 400


def mistaken(model: LoadedModel, texts: Sequence[EvaluationText]) -> list[str]:
    """List texts whose middle is routed less like beginnings of their kind than like another's: "C for Python"."""
    known, wrong = _beginnings(model), []
    for text in texts:
        likeness = label_similarity(trace(model, text.text[STRETCH], keep_logits=False), known)
        if (nearest := likeness["label"][0]) != text.label:
            wrong.append(f"{text.label} for {nearest}")
    return wrong


def _beginnings(model: LoadedModel) -> RoutingTrace:
    """How the model routes the beginnings of all texts: recorded beforehand of the one that ships."""
    if model.name == EMBEDDED:
        recorded = traces_over_training()
        return recorded[max(recorded)]
    return trace_corpus(model, texts_over_training())


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
