"""How well a model predicts the evaluation set: loss by domain, by position, and with more or less text before."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from moeviz.capture.models.load import LoadedModel
from moeviz.embedded.byte_ngrams import byte_models
from moeviz.embedded.domains import DOMAINS
from moeviz.embedded.evaluation import EvaluationText

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

    Source: bits per byte as in The Pile (arXiv 2101.00027), section 3.1. Byte models: `moeviz.embedded.byte_ngrams`.
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
