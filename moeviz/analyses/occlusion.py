"""Which word decided? The earlier tokens of a prompt are replaced one at a time, and the routing is compared.

`occlude` does so with a transformers model. With any other engine: `filled_prompts` are what it is to read, and
`compare_filled` makes an `Occlusion` of its traces.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int16
from torch import nn
from transformers import PreTrainedTokenizerBase

from moeviz.analyses.what_if import read_batch
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.next_tokens import SOFTMAX_ROWS
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import Batch, ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest, prompts_of
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.routing_trace import NO_EXPERT, NO_TOKEN_ID, RoutingTrace, normalised_scores

FILLERS = (" the", ",", ".", "\n", " and", " of", " a")  # the first four that are tokens of their own, and differ
NUMBER = 4  # of fillers a token
AGREE = 3  # of them, for a token that decides
MOST_TOKENS = 512  # of a prompt: a forward of all its tokens for each of them and each filler
BOTH_WAYS = "{} reads a text in both directions, so earlier tokens do not decide by themselves. Choose a decoder."
SAME = 0.98  # share of first choices before a replaced token that stay: batches round otherwise
TOKENS_AT_ONCE, LOGITS_AT_ONCE = 8192, 2**27  # in one forward


@dataclass(frozen=True, slots=True, eq=False)
class Occlusion:
    """A prompt, and its routing with each of its tokens replaced by fillers. L layers, T tokens, F fillers.

    trace    the prompt as it is.
    fillers  texts of the F tokens that stood in, at most; of a token that is one of them, the others.
    flips    [l, t, j]: share of the fillers in place of token j with which the first choice of token t is another one.
             0 where j is not before t.
    falls    [l, t, j]: by how much the router's score of that first choice falls, on average; below 0 where it rises.
             NaN without logits.
    next     [t, j]: by how much the probability of the likeliest next token after t falls, on average. NaN where traces
             of another engine were compared.
    to       [l, t, j]: the expert that most of the fillers that flip a first choice send it to; -1 where none flips it.

    >>> import moeviz
    >>> found = moeviz.occlude("embedded", "Ich komme mit.")
    >>> list(found.deciding().columns)[:3]
    ['layer', 'token', 'text']
    """

    trace: RoutingTrace
    fillers: tuple[str, ...]
    flips: Float32[np.ndarray, "L T T"]
    falls: Float32[np.ndarray, "L T T"]
    next: Float32[np.ndarray, "T T"]
    to: Int16[np.ndarray, "L T T"]

    def deciding(self, segment: str | None = None) -> pd.DataFrame:
        """The earlier tokens that decide a first choice: with at least three of four fillers there, it is another one.

        One row per layer, token and deciding token. Columns: layer int32 (the model's own index) · token int32 (row of
        the trace) · text str · expert int16 (its first choice) · decided_by int32 (row of the trace) · by_text str ·
        flips float32 · fall float32 · to int16 (all three as in the arrays; see `Occlusion`). Tokens without a row are
        decided by no single earlier token: by themselves, by several, or by their place.

        segment  of a chat: only its tokens, as "answer", whichever segment decides.
        """
        layer, token, by = np.nonzero((self.flips >= AGREE / NUMBER) & self._counts(segment)[:, None])
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
                "to": self.to[layer, token, by],
            }
        )

    def sentence(self, segment: str | None = None) -> str:
        """Say how many first choices a single earlier token decides, of all tokens or of those of one segment."""
        decided = (self.flips[:, self._counts(segment)] >= AGREE / NUMBER).any(axis=-1)
        if not decided.any():
            return "No single earlier token decides a first choice here."
        return (
            f"A single earlier token decides {int(decided.sum()):,} of {decided.size:,} first choices: with three of "
            "four other tokens in its place, the choice is another one."
        )

    def _counts(self, segment: str | None) -> np.ndarray:
        return np.ones(len(self.trace.tokens), bool) if segment is None else self.trace.in_segment(segment)


@dataclass(frozen=True, slots=True)
class FilledPrompt:
    """A prompt with a filler in the place of one of its tokens."""

    at: int  # row of the token
    token_ids: tuple[int, ...]
    of: int  # as many fillers stand in for this token


def occlude(
    model: LoadedModel | nn.Module | str,
    prompt: str | Sequence[Any],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool = False,
    progress: Progress | None = None,
) -> Occlusion:
    """Replace each token of a prompt by four fillers in turn, and compare what the routers decide for later tokens.

    A filler changes more than a meaning, so one alone says little: see `Occlusion.deciding`. Special tokens are never
    replaced. The cost is 4 (T - 1) forwards of T tokens, in batches, so a prompt has at most 512 tokens.

    prompt    one text, or with `chat` one conversation as `trace` takes it.
    chat      True reads it as a user's turn of a chat, as in `trace`.
    progress  called with (forwards done, forwards in all) after each batch. Raise in it to stop.

    Raises `InvalidPrompt` for a prompt of more than 512 tokens, `CaptureError` for a model that reads later tokens
    before earlier ones, and what `trace` raises.

    >>> import moeviz
    >>> found = moeviz.occlude(moeviz.load_model(), "Ich komme mit.")
    >>> found.flips.shape  # layers, tokens, earlier tokens
    (6, 8, 8)

    Source: occlusion of Zeiler & Fergus (arXiv 1311.2901), section 4.2, of tokens in place of squares of a picture.
    """
    steps = occluding(model, CaptureRequest(prompts_of(prompt), chat=chat), tokenizer=tokenizer)
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            found: Occlusion = end.value
            return found
        if progress is not None:
            progress(*done)


def occluding(
    model: LoadedModel | nn.Module | str, request: CaptureRequest, *, tokenizer: PreTrainedTokenizerBase | None = None
) -> Generator[tuple[int, int], None, Occlusion]:
    """Do as `occlude` does, batch by batch, of the one prompt of a request: yields forwards done and forwards in all.

    Between batches the model is anybody's. Errors as there.
    """
    run = prepare(model, request, tokenizer)
    if (count := len(run.batch.input_ids)) != 1:
        raise InvalidPrompt(f"Tokens are replaced in one text, and these are {count:,}. Give one of them.")
    if run.model.config.is_encoder_decoder:
        raise CaptureError(BOTH_WAYS.format(run.info.name))
    ids = run.batch.input_ids[0].tolist()
    if len(ids) > MOST_TOKENS:
        raise InvalidPrompt(f"This prompt has {len(ids):,} tokens, and each is replaced. Give at most {MOST_TOKENS}.")
    plain, logits = read_batch(run, (), None, request.site)
    fillers = _fillers(run.tokenizer)
    filled = filled_prompts(ids, list(fillers), run.tokenizer.all_special_ids)
    p, likeliest = logits.float().softmax(-1).max(-1)
    comparison = _Comparison(plain)
    done = 0
    for some in _batches(filled, logits.shape[-1]):
        changed, other = read_batch(_with(run, some), (), None, request.site)
        parts = zip(other.split(SOFTMAX_ROWS), likeliest.repeat(len(some)).split(SOFTMAX_ROWS), strict=True)
        kept = torch.cat([rows.float().softmax(-1).gather(-1, at[:, None]) for rows, at in parts])
        comparison.add(some, changed, (p - kept.reshape(len(some), -1)).cpu().numpy())
        done += len(some)
        yield done, len(filled)
    return comparison.found(tuple(fillers.values()))


def most_forwards(tokens: int) -> int:
    """Return the most forwards, each of the whole prompt, that `occlude` takes for a prompt of this many tokens."""
    return NUMBER * max(tokens - 1, 0)


def filled_prompts(
    token_ids: Sequence[int], fillers: Sequence[int], special: Collection[int] = ()
) -> list[FilledPrompt]:
    """Return the prompts, as token ids, in which each token in turn is replaced by four fillers.

    The last token is not, since nothing comes after it, nor are special ones.

    token_ids  of the prompt as it is.
    fillers    ids of common tokens, five at best: one that stands there already is passed over.
    special    ids that are never replaced, such as that of the beginning of a text.

    >>> [prompt.token_ids for prompt in filled_prompts([1, 7, 8], [3, 7], special=[1])]
    [(1, 3, 8)]
    """
    ids, filled = tuple(token_ids), []
    for at, own in enumerate(ids[:-1]):
        if own not in special:
            others = [filler for filler in fillers if filler != own][:NUMBER]
            filled += [FilledPrompt(at, (*ids[:at], other, *ids[at + 1 :]), len(others)) for other in others]
    return filled


def compare_filled(
    plain: RoutingTrace, filled: Sequence[FilledPrompt], traces: Iterable[RoutingTrace], fillers: Sequence[str] = ()
) -> Occlusion:
    """Compare the routing of filled prompts with that of the prompt as it is, whichever engine recorded them.

    plain    the prompt as it is, one sequence.
    filled   all of `filled_prompts`.
    traces   of these prompts, in their order; each of one or of several, as its sequences.
    fillers  texts of the tokens that stood in.

    Raises `CaptureError` for traces of anything else, and of a model that reads later tokens before earlier ones.
    """
    comparison, left, T = _Comparison(plain), list(filled), len(plain.tokens)
    for trace in traces:
        number = len(trace.tokens) // max(T, 1)
        some, left = left[:number], left[number:]
        comparison.add(some, trace, None)
    if left:
        raise CaptureError(f"{len(left):,} of {len(filled):,} filled prompts have no trace. Record all of them.")
    return comparison.found(tuple(fillers))


class _Comparison:
    """The changes that filled prompts bring, added up as their traces arrive."""

    def __init__(self, plain: RoutingTrace) -> None:
        L, T = plain.experts.shape[:2]
        self.plain, self.first, self.scores = plain, plain.first_choices("Which word decided"), _scores(plain)
        self.flips, self.falls = np.zeros((L, T, T), np.float32), np.zeros((L, T, T), np.float32)
        self.next, self.to = np.zeros((T, T), np.float32), np.full((L, T, T), NO_EXPERT, np.int16)
        self.before = self.kept = 0  # first choices before a replaced token, and those of them that stayed
        self.sent: list[np.ndarray] = []  # first choices (L, T) with each filler so far of the token at hand

    def add(self, filled: Sequence[FilledPrompt], trace: RoutingTrace, fallen: np.ndarray | None) -> None:
        """Add a trace of some prompts, and by how much the probability of the likeliest next token falls, (n, T)."""
        L, T = self.first.shape
        ids = np.array([prompt.token_ids for prompt in filled], np.int64).reshape(-1)
        given = trace.tokens["token_id"].to_numpy()
        if trace.model.layers != self.plain.model.layers or not filled or len(given) != len(ids):
            raise CaptureError(
                "A trace is not of the filled prompts: its layers or tokens are others. Record them anew."
            )
        if ((given != ids) & (given != NO_TOKEN_ID)).any():
            raise CaptureError("A trace is not of the filled prompts: its token ids are others. Record them anew.")
        first = trace.first_choices("Which word decided").reshape(L, len(filled), T)
        scores = None if self.scores is None else _scores(trace)
        for number, prompt in enumerate(filled):
            rows = None if scores is None else scores.reshape(L, len(filled), T, -1)[:, number]
            fall = np.float32("nan") if rows is None or self.scores is None else _fall(self.scores, rows, self.first)
            after = np.full(T, np.nan) if fallen is None else fallen[number]
            self._add(prompt, first[:, number], np.broadcast_to(fall, (L, T)), after)
        if self.kept < SAME * self.before:
            raise CaptureError(BOTH_WAYS.format(self.plain.model.name))

    def _add(self, prompt: FilledPrompt, first: np.ndarray, fall: np.ndarray, after: np.ndarray) -> None:
        at, later = prompt.at, slice(prompt.at + 1, None)
        self.before += self.first[:, :at].size
        self.kept += int((first[:, :at] == self.first[:, :at]).sum())
        self.flips[:, later, at] += (first != self.first)[:, later] / np.float32(prompt.of)
        self.falls[:, later, at] += fall[:, later] / prompt.of
        self.next[later, at] += after[later] / prompt.of
        self.sent.append(first)
        if len(self.sent) == prompt.of:
            self.to[:, later, at] = _most_of(np.stack(self.sent), self.first)[:, later]
            self.sent = []

    def found(self, fillers: tuple[str, ...]) -> Occlusion:
        """Return the whole comparison."""
        return Occlusion(self.plain, fillers, self.flips, self.falls, self.next, self.to)


def _most_of(sent: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(L, T): of the experts (n, L, T) that are not the first choice, the one that comes most often; else NO_EXPERT."""
    votes = (sent[:, None] == sent[None]).sum(axis=1) * (sent != first)
    most = np.take_along_axis(sent, votes.argmax(axis=0)[None], axis=0)[0]
    return np.where(votes.any(axis=0), most, NO_EXPERT).astype(np.int16)


def _fillers(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Tokens that may stand in, one more than are used of any token: id and text."""
    found: dict[int, str] = {}
    for text in FILLERS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids and len(found) <= NUMBER:
            found.setdefault(ids[-1], str(tokenizer.decode([ids[-1]])))
    return found


def _batches(filled: list[FilledPrompt], vocabulary: int) -> Iterator[list[FilledPrompt]]:
    tokens = len(filled[0].token_ids) if filled else 1
    size = max(min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // vocabulary) // tokens, 1)
    return (filled[start : start + size] for start in range(0, len(filled), size))


def _with(run: ModelInput, filled: Sequence[FilledPrompt]) -> ModelInput:
    ids = torch.tensor([prompt.token_ids for prompt in filled], device=run.batch.input_ids.device)
    return replace(run, batch=Batch(ids, torch.ones_like(ids)))


def _scores(trace: RoutingTrace) -> np.ndarray | None:
    """(L, T, E): what the routers gave every expert, with sum 1; None where that is not known."""
    function = trace.model.score_function
    return None if trace.logits is None or function == "unknown" else normalised_scores(trace.logits, function)


def _fall(before: np.ndarray, after: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(L, T): the score of the first choice before, less the one after."""
    chosen = np.maximum(first, 0)[..., None]
    return np.take_along_axis(before - after, chosen, axis=-1)[..., 0]
