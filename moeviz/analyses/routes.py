"""The quality of routes: each one taken, compared with others of the same cost, by the loss of the next token.

The alternatives of all tokens of a text are rows of one batch, in which each token is changed as if it were the only
one (`moeviz.capture.record.changed_alone`). A few are compared with plain forwards with the same change (`AtToken`).

A rows or routes, P positions, K slots, E experts, V tokens of the vocabulary.
"""

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moeviz.analyses.what_if import next_token_logits
from moeviz.capture.corpus import fitting_stretches
from moeviz.capture.interventions.at_token import AtToken
from moeviz.capture.interventions.intervention import ChangedLayer, Choice, Decision, LimitsByLayer, push_by_token
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.changed_alone import TextAsItIs, reading
from moeviz.capture.record.hooks import exclusive_eval
from moeviz.capture.record.intervening import intervening, probe_routers, router_limits
from moeviz.capture.record.kernel_parity import ProbedRouter
from moeviz.capture.record.witness import reads_others
from moeviz.capture.run.chat import Prompt
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.run.token_texts import texts_of_tokens
from moeviz.errors import CaptureError, InvalidPrompt, MissingField
from moeviz.metrics.routes import MOST_SETS, NEXT, RouteCost, RouteRegret, joined_regret, ranks
from moeviz.metrics.vocabulary import kind_of
from moeviz.text import no_segment, quoted

NUMBERS = 2**26  # of logits or attention that are there at once: 256 MB in float32
CHECKED = 3  # changes of the first text that are held against plain forwards
MOST_ERROR = {torch.float32: 1e-3, torch.float64: 1e-3}  # nats; 16 bits round by more
MOST_ERROR_OF_HALF = 0.1


def route_regret(
    model: LoadedModel | nn.Module | str,
    texts: str | Iterable[tuple[str, Prompt]],
    *,
    alternatives: str | int = "auto",
    layers: Sequence[int] | None = None,
    positions: int | None = None,
    tokens: int | None = None,
    segment: str | None = None,
    judge: LoadedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RouteRegret:
    """Compare the route of each token at each layer with others of the same size, by the loss of the next token.

    No single token is ever called misrouted: of routes chosen at random, half of the others are better. Judge groups
    of tokens (`moeviz.metrics.routes.by`, `blind_spots`), and ask whose route a token has (`whose_route`).

    texts         a text, or (label, text) pairs, each read by itself; instead of a text, the messages of a chat.
    alternatives  "all" sets of experts; "swap" one of the K for one of the next likeliest; "auto" is "all" if there are
                  at most 40 sets, and else "swap"; a number draws that many of them for each token and layer.
    layers        the model's own indices; default: all with routers that choose.
    positions     tokens of each text that are judged, drawn at random; default: all that a token follows.
    tokens        read only this many tokens of each text; default: all, in stretches that fit into the context.
    segment       of chats: only its tokens are judged, as "answer"; each chat is read whole.
    judge         a better model with the same vocabulary: routes are then scored by the cross-entropy with what it
                  predicts, and not by the token that follows. All experts on are no judge.
    seed          of what is drawn.
    progress      called with (texts done, texts in all). Raise in it to stop; `regretting` keeps what is done.

    Special tokens are not judged. The cost is that of `route_cost`.

    Raises `CaptureError` for a model in another engine, one that reads later tokens or other texts, whose layers do not
    all have attention, or whose routers cannot choose again; `InvalidPrompt` for a text of one token, or if no chat has
    the segment; `MissingField` for a segment of texts that are no chats.

    >>> import moeviz
    >>> found = moeviz.route_regret("embedded", "Il fait froid.", layers=[5])
    >>> found.cells["alternatives"].unique().tolist()  # other pairs of 8 experts
    [27]

    Source: the question is that of "When Are Experts Misrouted?" (arXiv 2605.07260); one batch for all tokens, ranks
    with ties and other tokens' routes are moeviz's own.
    """
    given = regretting(
        model,
        texts,
        alternatives=alternatives,
        layers=layers,
        positions=positions,
        tokens=tokens,
        segment=segment,
        judge=judge,
        tokenizer=tokenizer,
        seed=seed,
    )
    parts = []
    for done, total, part in given:
        parts.append(part)
        if progress is not None:
            progress(done, total)
    return joined_regret(parts)


def regretting(
    model: LoadedModel | nn.Module | str,
    texts: str | Iterable[tuple[str, Prompt]],
    *,
    alternatives: str | int = "auto",
    layers: Sequence[int] | None = None,
    positions: int | None = None,
    tokens: int | None = None,
    segment: str | None = None,
    judge: LoadedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> Generator[tuple[int, int, RouteRegret], None, None]:
    """Do as `route_regret` does, text by text: yields texts done, texts in all, and the result of one text."""
    labelled = not isinstance(texts, str)
    pairs: list[tuple[str, Prompt]] = [("", texts)] if isinstance(texts, str) else [*texts]
    if not pairs:
        raise InvalidPrompt("There are no texts whose routes could be judged. Give at least one.")
    if isinstance(model, LoadedModel):
        pairs = [(label, part) for label, text in pairs for part in _stretches(model, text, tokens)]
    rng, first = np.random.default_rng(seed), True
    segments: set[str] = set()
    for number, (label, text) in enumerate(pairs):
        run = prepare(model, CaptureRequest.of(text), tokenizer)
        if segment is not None and not run.in_segment(segment)[:-1].any():
            segments.update(run.segment_names)
            continue  # not every chat has every segment
        job = _job(run, alternatives, layers, rng)
        part = _of_text(job, number, _positions(job, positions, segment), judge, text, check=first)
        first = False
        if labelled:
            part.cells.insert(7, "label", pd.Series(label, part.cells.index, "str"))
        yield number + 1, len(pairs), part
    if first and segment in segments:
        raise InvalidPrompt(f"No token of the segment {quoted(segment)} has a next one to judge it by. Choose another.")
    if first:
        raise MissingField(no_segment(segment or "", sorted(segments)))


def _stretches(model: LoadedModel, text: Prompt, tokens: int | None) -> Sequence[Prompt]:
    """Cut a text into what fits the context, or into its first tokens; a chat is read whole."""
    if not isinstance(text, str):
        return [text]
    return fitting_stretches(model, text, tokens)[: None if tokens is None else 1]


def route_cost(model: LoadedModel, alternatives: str | int = "auto", layers: Sequence[int] | None = None) -> RouteCost:
    """Count what `route_regret` takes for each text. Raises `CaptureError` as there."""
    job = _job(prepare(model, CaptureRequest(("-",))), alternatives, layers, np.random.default_rng(0))
    depth = int(_depth(job))
    rows = {probed.router.layer: 1 + _number(job, probed) for probed in job.judged}
    return RouteCost(
        max(rows.values()),
        1 + sum(rows[layer] * (depth - layer) / depth for layer in rows),
        1 + sum(rows.values()),
    )


def seconds_of_forward(model: LoadedModel, text: Prompt, positions: int) -> float:
    """Return the seconds that one plain forward of a text takes now, for this many of its tokens."""
    run = prepare(model, CaptureRequest.of(_stretches(model, text, None)[0]))
    share = min(positions / run.batch.input_ids.numel(), 1.0)
    with exclusive_eval(run.model):
        start = perf_counter()
        next_token_logits(run)
        return (perf_counter() - start) * share


@dataclass(frozen=True, slots=True)
class _RoutesJob:
    """A text, the routers whose choices are judged, and how their other routes are made."""

    run: ModelInput
    able: tuple[ProbedRouter, ...]  # that can choose again
    judged: tuple[ProbedRouter, ...]
    left_out: dict[int, str]
    alternatives: str | int
    rng: np.random.Generator


def _job(
    run: ModelInput, alternatives: str | int, layers: Sequence[int] | None, rng: np.random.Generator
) -> _RoutesJob:
    if alternatives not in ("auto", "all", "swap") and not (
        isinstance(alternatives, int) and not isinstance(alternatives, bool) and alternatives > 0
    ):
        raise CaptureError(f"Alternatives are 'auto', 'all', 'swap' or how many to draw, not {alternatives!r}.")
    routers = probe_routers(run)
    if reads_others(run):
        raise CaptureError(
            f"{run.info.name} routes a token by what else is in its batch, so one token's route cannot be changed by "
            "itself. Choose a model without capacity limits or expert choice."
        )
    troubles = {
        p.router.layer: p.trouble or "" if p.router.writer else f"{p.router.kind} takes no other choice"
        for p in routers
    }
    known = [p.router.layer for p in routers]
    if missing := set(layers or ()) - set(known):
        raise CaptureError(f"{run.info.name} has no MoE layer {min(missing)}. It has {known}.")
    able = tuple(p for p in routers if not troubles[p.router.layer])
    judged = tuple(p for p in able if layers is None or p.router.layer in layers)
    left_out = {layer: why for layer, why in troubles.items() if why and (layers is None or layer in layers)}
    if not judged:
        raise CaptureError(
            f"None of the routers of {run.info.name} can be let choose again, so there are no other routes to compare "
            f"with: {next(iter(left_out.values()))}."
        )
    return _RoutesJob(run, able, judged, left_out, alternatives, rng)


def _depth(job: _RoutesJob) -> int:
    return int(job.run.model.config.get_text_config().num_hidden_layers)


def _all_sets(job: _RoutesJob, probed: ProbedRouter) -> bool:
    limits = router_limits(probed)
    few = limits.groups == 1 and math.comb(limits.num_experts, limits.top_k) <= MOST_SETS
    if job.alternatives == "all" and not few:
        raise CaptureError(
            f"Layer {probed.router.layer} has {limits}: {math.comb(limits.num_experts, limits.top_k):,} sets of "
            f"{limits.top_k}, and at most {MOST_SETS} are all tried. Ask for 'swap', or for a number of them."
        )
    return few and job.alternatives != "swap"


def _number(job: _RoutesJob, probed: ProbedRouter) -> int:
    limits = router_limits(probed)
    K = limits.top_k
    swaps = K * min(max(NEXT, K), limits.most - K)
    found = math.comb(limits.num_experts, K) - 1 if _all_sets(job, probed) else swaps
    return min(found, job.alternatives) if isinstance(job.alternatives, int) else found


@dataclass(slots=True)
class _Routes:
    """An intervention that looks at what routers decide, and then gives each token a route of its own at one layer."""

    candidates: dict[int, int] = field(default_factory=dict)  # experts that are looked at, by layer
    seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # own (T, K) and likeliest (T, N), by layer
    layer: int | None = None
    wanted: Tensor | None = None  # (A·P, K)

    def check(self, layers: LimitsByLayer, token_ids: np.ndarray) -> None:
        """Everything that is asked for was decided by the routers."""

    def change(self, decision: Decision) -> Choice:
        """Return the routes that are wanted at the layer, and the router's own elsewhere."""
        own = decision.weights, decision.experts
        if self.layer is None and decision.layer in self.candidates:
            likeliest = decision.again(None, self.candidates[decision.layer])[1]
            self.seen[decision.layer] = decision.experts, likeliest
        if self.layer != decision.layer or self.wanted is None:
            return own
        weights, experts = decision.again(push_by_token(decision, self.wanted), None)
        if not torch.equal(experts.sort(-1).values, self.wanted.sort(-1).values.to(experts)):
            raise CaptureError(f"The router of layer {decision.layer} does not take the routes that it was given.")
        return weights, experts

    def check_held(self, at: ChangedLayer) -> None:
        """Losses are held against plain forwards instead (`_error`)."""


def _of_text(
    job: _RoutesJob, number: int, at: Tensor, judge: LoadedModel | None, text: Prompt, *, check: bool
) -> RouteRegret:
    run = job.run
    ids = run.batch.input_ids
    target = _target(run, judge, text, at)
    routes = _Routes({p.router.layer: router_limits(p).top_k + max(NEXT, router_limits(p).top_k) for p in job.judged})
    routes.candidates = {
        p.router.layer: min(routes.candidates[p.router.layer], router_limits(p).most) for p in job.judged
    }
    losses, sets = [], []
    with (
        torch.no_grad(),
        exclusive_eval(run.model),
        intervening(run, job.able, routes),
        reading(run.model, ids, job.judged[0].router) as plain,
    ):
        for probed in job.judged:
            layer = probed.router.layer
            own, likeliest = (part[at] for part in routes.seen[layer])
            every = _all_sets(job, probed)
            wanted = _draw_routes(_alternatives(own, likeliest, router_limits(probed).num_experts, every), job)
            routes.layer = layer
            losses.append(_losses(plain, routes, layer, at, wanted, target))
            sets.append(wanted)
            routes.layer = routes.wanted = None
        logits = plain.logits[at].float()
    error = _error(job, at, losses, sets, target) if check else 0.0
    own = torch.special.entr(logits.softmax(-1)).sum(-1)
    every = all(_all_sets(job, probed) for probed in job.judged) and not isinstance(job.alternatives, int)
    return _result(job, number, at, losses, sets, own, every, error, ids)


def _positions(job: _RoutesJob, most: int | None, segment: str | None) -> Tensor:
    """Return the tokens (P,) that are judged: those of the segment with a next token that are not special."""
    ids = job.run.batch.input_ids[0].cpu().numpy()
    is_plain = ~np.isin(ids[:-1], job.run.tokenizer.all_special_ids)
    able = np.flatnonzero(is_plain & job.run.in_segment(segment)[:-1])
    if not len(able):
        among = "" if segment is None else f", of the segment {quoted(segment)},"
        raise InvalidPrompt(
            f"A text of {len(ids)} tokens has none{among} whose route could be judged by the token that follows. Give "
            "a longer text."
        )
    chosen = able if most is None else np.sort(job.rng.permutation(able)[:most])
    return torch.as_tensor(chosen, device=job.run.batch.input_ids.device)


def _target(run: ModelInput, judge: LoadedModel | None, text: Prompt, at: Tensor) -> Tensor:
    """Return what routes are scored by: the ids (P,) that follow, or a judge's distributions (P, V)."""
    ids = run.batch.input_ids[0]
    if judge is None:
        return ids[at + 1]
    theirs = prepare(judge, CaptureRequest.of(text))
    if theirs.batch.input_ids[0].tolist() != ids.tolist():
        raise CaptureError(
            f"{judge.name} reads this text as other tokens than {run.info.name}, so it cannot judge its routes. Choose "
            "a judge with the same tokenizer."
        )
    with exclusive_eval(theirs.model):
        return next_token_logits(theirs)[at.to(theirs.batch.input_ids.device)].float().softmax(-1).to(ids.device)


def _alternatives(own: Tensor, likeliest: Tensor, num_experts: int, every: bool) -> Tensor:
    """Return routes (A, P, K), the own one first, by own experts (P, K) and the likeliest (P, N)."""
    P, K = own.shape
    own = own.sort(-1).values.long()
    if every:
        sets = torch.tensor([*combinations(range(num_experts), K)], device=own.device)
        others = (sets[None] != own[:, None]).any(-1)
        rest = sets.expand(P, *sets.shape)[others].view(P, len(sets) - 1, K)
        return torch.cat([own[:, None], rest], 1).transpose(0, 1)
    new = (likeliest.long()[:, :, None] != own[:, None]).all(-1)
    first = (~new).int().sort(dim=-1, stable=True).indices[:, : likeliest.shape[1] - K]
    coming = likeliest.long().gather(1, first)  # (P, N - K)
    swapped = own[None, None].repeat(K, coming.shape[1], 1, 1)  # (K, N - K, P, K)
    for slot in range(K):
        swapped[slot, :, :, slot] = coming.T
    return torch.cat([own[None], swapped.flatten(0, 1)])


def _draw_routes(wanted: Tensor, job: _RoutesJob) -> Tensor:
    """Return the own routes and as many of the others as are asked for, drawn for each token."""
    others = len(wanted) - 1
    if not isinstance(job.alternatives, int) or job.alternatives >= others:
        return wanted
    chosen = job.rng.random((others, wanted.shape[1])).argsort(0)[: job.alternatives] + 1
    rows = torch.as_tensor(chosen, device=wanted.device)[..., None].expand(-1, -1, wanted.shape[2])
    return torch.cat([wanted[:1], wanted.gather(0, rows)])


def _losses(plain: TextAsItIs, routes: _Routes, layer: int, at: Tensor, wanted: Tensor, target: Tensor) -> Tensor:
    """Return the loss (A, P) of each token with each of its routes (A, P, K)."""
    config = plain.model.config.get_text_config()
    wide = max(plain.logits.shape[-1], config.num_attention_heads * plain.ids.shape[1])
    rows = max(NUMBERS // (wide * len(at)), 1)
    found = []
    for some in wanted.split(rows):
        routes.wanted = some.flatten(0, 1)
        logits = plain.changed(layer, at, len(some)).float()
        found.append(_loss(logits, target).cpu())
    return torch.cat(found)


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss (…, P) of what logits (…, P, V) predict, by ids (P,) or distributions (P, V)."""
    target = target.to(logits.device)
    if target.dim() == 1:
        own = logits.gather(-1, target.expand(logits.shape[:-1])[..., None])[..., 0]
    else:
        own = (logits * target).sum(-1)
    return logits.logsumexp(-1) - own


def _error(job: _RoutesJob, at: Tensor, losses: list[Tensor], sets: list[Tensor], target: Tensor) -> float:
    """Return the largest difference of a few changes from plain forwards. Raises `CaptureError` for a large one."""
    rng, run, worst = np.random.default_rng(0), job.run, 0.0
    most = MOST_ERROR.get(run.model.dtype, MOST_ERROR_OF_HALF)
    for _ in range(CHECKED):
        which = int(rng.integers(len(sets)))
        row, column = int(rng.integers(len(sets[which]))), int(rng.integers(len(at)))
        layer, token = job.judged[which].router.layer, int(at[column])
        change = AtToken(layer, token, tuple(sets[which][row, column].tolist()))
        with exclusive_eval(run.model), intervening(run, job.able, change):
            logits = next_token_logits(run)[token].float()
        found = float(_loss(logits[None], target[column : column + 1])[0])
        worst = max(worst, abs(found - float(losses[which][row, column])))
    if not worst <= most:
        raise CaptureError(
            f"A token of {run.info.name} changed by itself gives {worst:.3g} nats more or less than a plain forward "
            "with the same change: some part of this model reads other tokens in a way that moeviz does not know. "
            "Compare changes one by one with moeviz.what_if and AtToken."
        )
    return worst


def _result(
    job: _RoutesJob,
    number: int,
    at: Tensor,
    losses: list[Tensor],
    sets: list[Tensor],
    entropy: Tensor,
    every: bool,
    error: float,
    ids: Tensor,
) -> RouteRegret:
    P, width = len(at), max(len(part) for part in sets)
    slots = max(part.shape[2] for part in sets)
    array = np.full((len(sets), P, width), np.nan, np.float32)
    routes = np.full((len(sets), P, width, slots), -1, np.int16)
    for layer, (loss, route) in enumerate(zip(losses, sets, strict=True)):
        array[layer, :, : len(loss)] = loss.T.numpy()
        routes[layer, :, : len(route), : route.shape[2]] = route.transpose(0, 1).cpu().numpy()
    texts = np.array(texts_of_tokens(job.run.tokenizer, ids[0].tolist()), object)
    place, L = at.cpu().numpy(), len(sets)
    layers = [probed.router.layer for probed in job.judged]
    words = {"text": texts[place], "next_text": texts[place + 1]}
    words |= {
        "kind": np.array([kind_of(t) for t in words["text"]]),
        "next_kind": np.array([kind_of(t) for t in words["next_text"]]),
    }
    flat = array.reshape(L * P, width)
    cells = pd.DataFrame(
        {
            "sequence": np.full(L * P, number, np.int32),
            "position": np.tile(place, L).astype(np.int32),
            "layer": np.repeat(np.array(layers, np.int32), P),
            **{name: pd.array(np.tile(part.astype(object), L), "str") for name, part in words.items()},
            "entropy": np.tile(entropy.cpu().double().numpy(), L),
            **ranks(flat),
        }
    )
    depth = _depth(job)
    forwards = 1 + sum(len(part) * (depth - layer) / depth for layer, part in zip(layers, sets, strict=True))
    return RouteRegret(
        cells,
        flat,
        routes.reshape(L * P, width, slots),
        job.run.info,
        every,
        job.left_out,
        error,
        forwards,
        1 + sum(map(len, sets)),
    )
