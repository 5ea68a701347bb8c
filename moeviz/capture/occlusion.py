"""Which word decided? The earlier tokens of a prompt are replaced one at a time, and the routing is compared."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from torch import nn
from transformers import PreTrainedTokenizerBase

from moeviz.capture.models.load import LoadedModel
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import Batch, ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.what_if import read_batch
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.routing_trace import RoutingTrace, normalised_scores

FILLERS = (" the", ",", ".", "\n", " and", " of", " a")  # the first four that are tokens of their own, and differ
NUMBER = 4  # of fillers a token
AGREE = 3  # of them, for a token that decides
MOST_TOKENS = 512  # of a prompt: a forward of all its tokens for each of them and each filler
BOTH_WAYS = "{} reads a text in both directions, so earlier tokens alone decide nothing. Choose a decoder."
SAME = 0.98  # share of first choices before a replaced token that stay: batches round otherwise
TOKENS_AT_ONCE, LOGITS_AT_ONCE = 8192, 2**27  # in one forward
Swap = tuple[int, int, float]  # row of a token, the id of a filler in its place, and the share that this one counts


@dataclass(frozen=True, slots=True, eq=False)
class Occlusion:
    """A prompt, and its routing with each of its tokens replaced by fillers. L layers, T tokens, F fillers.

    trace    the prompt as it is.
    fillers  texts of the F tokens that stood in, at most; of a token that is one of them, the others.
    flips    [l, t, j]: share of the fillers in place of token j with which the first choice of token t is another one.
             0 where j is not before t.
    falls    [l, t, j]: by how much the router's score of that first choice falls, on average; below 0 where it rises.
             NaN without logits.
    next     [t, j]: by how much the probability of the likeliest next token after t falls, on average.
    """

    trace: RoutingTrace
    fillers: tuple[str, ...]
    flips: Float32[np.ndarray, "L T T"]
    falls: Float32[np.ndarray, "L T T"]
    next: Float32[np.ndarray, "T T"]

    def deciding(self) -> pd.DataFrame:
        """The earlier tokens that decide a first choice: with at least three of four fillers there, it is another one.

        One row per layer, token and deciding token. Columns: layer int32 (the model's own index) · token int32 (row of
        the trace) · text str · expert int16 (its first choice) · decided_by int32 (row of the trace) · by_text str ·
        flips float32 · fall float32 (both as in the arrays; see `Occlusion`). Tokens without a row are decided by no
        single earlier token: by themselves, by several, or by their place.
        """
        layer, token, by = np.nonzero(self.flips >= AGREE / NUMBER)
        texts = self.trace.tokens["text"].to_numpy()
        first = self.trace.first_choices("Which word decided")
        return pd.DataFrame(
            {
                "layer": np.asarray(self.trace.model.layers, np.int32)[layer],
                "token": token.astype(np.int32),
                "text": pd.Series(texts[token], dtype="str"),
                "expert": first[layer, token],
                "decided_by": by.astype(np.int32),
                "by_text": pd.Series(texts[by], dtype="str"),
                "flips": self.flips[layer, token, by],
                "fall": self.falls[layer, token, by],
            }
        )

    def sentence(self) -> str:
        """Say how many of the routers' first choices a single earlier token decides."""
        decided = (self.flips >= AGREE / NUMBER).any(axis=-1)
        if not decided.any():
            return "No single earlier token decides a first choice here."
        return (
            f"A single earlier token decides {int(decided.sum()):,} of {decided.size:,} first choices: with three of "
            "four other tokens in its place, the choice is another one."
        )


def occlude(
    model: LoadedModel | nn.Module | str,
    prompt: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    progress: Progress | None = None,
) -> Occlusion:
    """Replace each token of a prompt by four fillers in turn, and compare what the routers decide for later tokens.

    A filler changes more than a meaning, so one alone says little: see `Occlusion.deciding`. Special tokens are never
    replaced. The cost is 4 (T - 1) forwards of T tokens, in batches, so a prompt has at most 512 tokens.

    prompt    one text.
    progress  called with (forwards done, forwards in all) after each batch. Raise in it to stop.

    Raises `InvalidPrompt` for a prompt of more than 512 tokens, `CaptureError` for a model that reads later tokens
    before earlier ones, and what `trace` raises.

    >>> import moeviz
    >>> found = moeviz.occlude(moeviz.load_model(), "Ich komme mit.")
    >>> found.flips.shape  # layers, tokens, earlier tokens
    (6, 8, 8)

    Source: occlusion of Zeiler & Fergus (arXiv 1311.2901), section 4.2, of tokens in place of squares of a picture.
    """
    run = prepare(model, CaptureRequest((prompt,)), tokenizer)
    if run.model.config.is_encoder_decoder:
        raise CaptureError(BOTH_WAYS.format(run.info.name))
    T = run.batch.input_ids.shape[1]
    if T > MOST_TOKENS:
        raise InvalidPrompt(f"This prompt has {T:,} tokens, and each is replaced. Give at most {MOST_TOKENS}.")
    plain, logits = read_batch(run, (), None)
    fillers = _fillers(run)
    L = len(plain.model.layers)
    flips, falls, after = np.zeros((L, T, T), np.float32), np.zeros((L, T, T), np.float32), np.zeros((T, T), np.float32)
    first, score = plain.first_choices("Which word decided"), _scores(plain)
    likeliest = logits.float().softmax(-1).max(-1)
    swaps = list(_swaps(run, fillers))
    done, before, kept_before = 0, 0, 0
    for some in _batches(swaps, T, logits.shape[-1]):
        changed, other = read_batch(_with(run, some), (), None)
        experts = changed.experts[..., 0].reshape(L, len(some), T)
        scores = _scores(changed)
        probability = other.float().softmax(-1).reshape(len(some), T, -1)
        for number, (at, _, share) in enumerate(some):
            later = slice(at + 1, T)
            before += at * L
            kept_before += int((experts[:, number, :at] == first[:, :at]).sum())
            flips[:, later, at] += share * (experts[:, number, later] != first[:, later])
            if score is None or scores is None:
                falls[:, later, at] = np.nan
            else:
                rows = scores.reshape(L, len(some), T, -1)[:, number]
                falls[:, later, at] += share * _fall(score, rows, first)[:, later]
            kept = probability[number].gather(-1, likeliest.indices[:, None])[:, 0]
            after[later, at] += share * (likeliest.values - kept).cpu().numpy()[later]
        if kept_before < SAME * before:
            raise CaptureError(BOTH_WAYS.format(run.info.name))
        done += len(some)
        if progress is not None:
            progress(done, len(swaps))
    return Occlusion(plain, tuple(fillers.values()), flips, falls, after)


def _fillers(run: ModelInput) -> dict[int, str]:
    """Tokens that may stand in, one more than are used of any token: id and text."""
    found: dict[int, str] = {}
    for text in FILLERS:
        ids = run.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids and len(found) <= NUMBER:
            found.setdefault(ids[-1], str(run.tokenizer.decode([ids[-1]])))
    return found


def _swaps(run: ModelInput, fillers: dict[int, str]) -> Iterator[Swap]:
    ids = run.batch.input_ids[0].tolist()
    for at, own in enumerate(ids[:-1]):
        if own not in run.tokenizer.all_special_ids:
            others = [filler for filler in fillers if filler != own][:NUMBER]
            yield from ((at, filler, 1 / len(others)) for filler in others)


def _batches(swaps: list[Swap], tokens: int, vocabulary: int) -> Iterator[list[Swap]]:
    size = max(min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // vocabulary) // tokens, 1)
    return (swaps[start : start + size] for start in range(0, len(swaps), size))


def _with(run: ModelInput, swaps: list[Swap]) -> ModelInput:
    """The prompt with each of these swaps, as a batch."""
    ids = run.batch.input_ids.repeat(len(swaps), 1)
    rows = torch.arange(len(swaps), device=ids.device)
    at, filler = (torch.tensor(part, device=ids.device) for part in list(zip(*swaps, strict=True))[:2])
    ids[rows, at] = filler
    return replace(run, batch=Batch(ids, torch.ones_like(ids)))


def _scores(trace: RoutingTrace) -> np.ndarray | None:
    """(L, T, E): what the routers gave every expert, with sum 1; None where that is not known."""
    function = trace.model.score_function
    return None if trace.logits is None or function == "unknown" else normalised_scores(trace.logits, function)


def _fall(before: np.ndarray, after: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(L, T): the score of the first choice before, less the one after."""
    chosen = np.maximum(first, 0)[..., None]
    return np.take_along_axis(before - after, chosen, axis=-1)[..., 0]
