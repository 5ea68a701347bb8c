"""Do the two losses of the sparsely-gated mixture keep its experts busy as the paper of 2017 says?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from statistics import NormalDist

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from benchmarks.history_tables import balance_table
from history_checks.claims import NOT_PRINTED, SHIPS, Claim, seeds
from history_checks.mechanisms import apart, kept, noticed_by, slopes
from history_checks.negative_controls import Control, swapped
from moeviz.errors import MoevizError
from moeviz.history.shared.datasets import Words, english
from moeviz.history.sparsely_gated_2017 import model, noisy_top_k
from moeviz.history.sparsely_gated_2017.exhibit import PRINTED_TABLE, setting, shipped_table
from moeviz.history.sparsely_gated_2017.model import MEASURES, SparselyGated, train
from moeviz.history.sparsely_gated_2017.noisy_top_k import GateChoice, NoisyTopKRouting, squared_variation

IMPORTANCE, LOAD, BUSIEST, _ = MEASURES
NONE, STRONG = (0.0, 0.0), (1.0, 1.0)
WEAK, LEVEL = ((0.2, 0.0), (0.01, 0.01)), ((0.0, 0.2), (0.1, 0.1))  # pairs of weights that come out alike in table 6
MOST_WITH_LOSS = 1.6
MOST_AT_START = 1.1  # of the smooth load: at random it is 1 but for the noise of a thousand words
MOST_APART = 0.1  # of what ships from the same seed trained again; rounding differs from machine to machine, and grows
SEEDS = 3  # of a table: of seed 1100 alone, weights of 0.01 are more even than those of 0.1
SHORT = 40  # steps after which no loss and strong losses are apart


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """The table that ships, three seeds of six pairs of weights, with its first seed trained again.

    Where it is to be quick nothing of it is trained again, but four short runs are. From another seed on than 0, all
    three of its seeds are trained.
    """
    if quick:
        return [*(replace(claim, kind=SHIPS) for claim in ordered(shipped_table())), *short(quick, seed)]
    return [*whole(quick, seed), *learnt(quick, seed), *short(quick, seed)]


def whole(quick: bool = False, seed: int = 0) -> list[Claim]:
    """All six pairs of weights, trained to the end."""
    if seed:
        return ordered(balance_table(seeds(seed, SEEDS)))
    again, table = balance_table(seeds(seed, 1)), shipped_table()
    others = table[~table["seed"].isin(again["seed"])]
    return [*ordered(pd.concat([again, others])), *repeated(again, table)]


def alone(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims about one seed, trained again: the seeds that ship would hide it if something were broken."""
    if quick:
        return []
    again = balance_table(seeds(seed, 1))
    return [*ordered(again), *([] if seed else repeated(again, shipped_table()))]


def learnt(quick: bool = False, seed: int = 0) -> list[Claim]:
    """A gate that has learnt where to send words, against one that stays as it is."""
    first = seeds(seed, 1)[0]
    ours = train(seed=first).perplexity
    with swapped(model, "_gate", random_gate):
        ratio = ours / train(seed=first).perplexity
    what = "perplexity on held-out words / that with random gates that do not learn"
    return [Claim(what, ratio, NOT_PRINTED, "below 1", ratio < 1, "of one seed: others gain 1 to 4%")]


def random_gate(shape: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    """W_g drawn once, for inputs of 64 units about as large as 1; and no W_noise. Neither learns."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 8
    return tuple(nn.Parameter(values, requires_grad=False) for values in (drawn, torch.zeros(shape)))


def short(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims that can be asked soon after the start."""
    run = partial(train, steps=SHORT, seed=seeds(seed, 1)[0])
    none, strong = run(importance=0.0, load=0.0), run(importance=1.0, load=1.0)
    return [
        *parted(none, strong),
        evened(IMPORTANCE, none, run(importance=1.0, load=0.0), "importance"),
        evened(LOAD, none, run(importance=0.0, load=1.0), "load"),
        *started(strong),
    ]


def ordered(runs: pd.DataFrame) -> list[Claim]:
    """Claims that hold for 16 experts as for the paper's 256: which weights give more uniform loads, and in what.

    `runs` are of `balance_table`, and the mean of their seeds is compared: in single runs weights of 0.01 may be as
    even as those of 0.1. Not asked for are the paper's 17.8 times the mean without a loss, which 16 experts with 2 for
    a word cannot have, and its perplexities. Raises `MoevizError` where one of the six pairs is missing.

    Source: Shazeer et al. (arXiv 1701.06538), table 6.
    """
    mean = runs.groupby(["importance", "load"])[list(MEASURES)].mean()
    if missing := set(PRINTED_TABLE) - set(mean.index):
        raise MoevizError(f"The table has no run with {setting(*min(missing))}; all six pairs of weights are needed.")
    ours, paper = mean[BUSIEST].to_dict(), {pair: row[2] for pair, row in PRINTED_TABLE.items()}
    said = f"seeds: {runs['seed'].nunique()}; 16 experts, the paper has 256"
    busiest = max(ours[pair] for pair in PRINTED_TABLE if pair != NONE)
    printed = max(paper[pair] for pair in PRINTED_TABLE if pair != NONE)
    what = f"{BUSIEST}, highest with any loss"
    return [
        _above(ours, paper, [NONE], WEAK, said),
        _above(ours, paper, WEAK, LEVEL, said),
        _above(ours, paper, LEVEL, [STRONG], said),
        _variations(mean, WEAK[0], below=True, said=said),
        _variations(mean, LEVEL[0], below=False, said=said),
        Claim(what, busiest, printed, f"at most {MOST_WITH_LOSS}", busiest <= MOST_WITH_LOSS, said),
    ]


def repeated(again: pd.DataFrame, table: pd.DataFrame) -> list[Claim]:
    """Claim that training anew comes to what ships."""
    key, measures = ["importance", "load", "seed"], list(MEASURES)
    both = [frame.set_index(key)[measures] for frame in (again, table)]
    apart = float((both[0] - both[1].loc[both[0].index]).abs().max(axis=None))
    what = "largest difference of any measure from the table that ships"
    return [Claim(what, apart, NOT_PRINTED, f"at most {MOST_APART}", apart <= MOST_APART, f"runs: {len(again)}")]


def parted(without: SparselyGated, strong: SparselyGated) -> list[Claim]:
    """Soon after the start the experts are less even without the losses."""
    ratio = without.at_end()[BUSIEST] / strong.at_end()[BUSIEST]
    what = f"{BUSIEST}, no loss / both 1, after {SHORT} steps"
    return [Claim(what, ratio, NOT_PRINTED, "above 1.1", ratio > 1.1)]


def evened(measure: str, without: SparselyGated, alone: SparselyGated, loss: str) -> Claim:
    """Each loss by itself evens what it is about."""
    ratio = without.at_end()[measure] / alone.at_end()[measure]
    what = f"{measure}, no loss / {loss} 1 alone, after {SHORT} steps"
    return Claim(what, ratio, NOT_PRINTED, "above 1.5", ratio > 1.5)


def started(run: SparselyGated) -> list[Claim]:
    """Gates of 0 share the first words out evenly, before any loss can. Appendix A says so and gives no number."""
    first = float(run.balance[0, MEASURES.index(BUSIEST)])
    what = f"{BUSIEST} at the first step, gates all 0"
    return [Claim(what, first, NOT_PRINTED, f"at most {MOST_AT_START}", first <= MOST_AT_START)]


def _above(ours: dict, paper: dict, more: Sequence[tuple], less: Sequence[tuple], said: str) -> Claim:
    """Every pair of the one kind leaves the busiest expert busier than every pair of the other."""
    ratios = [min(each[pair] for pair in more) / max(each[pair] for pair in less) for each in (ours, paper)]
    names = [" and ".join(setting(*pair) for pair in pairs) for pairs in (more, less)]
    what = f"{BUSIEST}, {names[0]} / {names[1]} (lowest / highest)"
    return Claim(what, *ratios, "above 1", ratios[0] > 1, said)


def _variations(mean: pd.DataFrame, pair: tuple[float, float], below: bool, said: str) -> Claim:
    """The loss that is on makes its own measure the more even of the two."""
    ours, paper = (
        float(mean.loc[pair, IMPORTANCE] / mean.loc[pair, LOAD]),
        PRINTED_TABLE[pair][0] / PRINTED_TABLE[pair][1],
    )
    what = f"{IMPORTANCE} / {LOAD}, {setting(*pair)} alone"
    return Claim(what, ours, paper, "below 1" if below else "above 1", (ours < 1) == below, said)


def _no_loss(routing: NoisyTopKRouting, importance: float, load: float) -> torch.Tensor:
    return routing.importance.sum() * 0


def _exchanged(routing: NoisyTopKRouting, importance: float, load: float) -> torch.Tensor:
    """Each loss evens what the other is about."""
    return load * squared_variation(routing.importance) + importance * squared_variation(routing.load)


def _not_at_zero(shape: tuple[int, ...]) -> tuple[nn.Parameter, nn.Parameter]:
    draws = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.randn(shape, generator=draws)), nn.Parameter(torch.zeros(shape))


def _no_noise(*arguments: torch.Tensor | int | None, right: Callable = model.noisy_top_k) -> GateChoice:
    *others, noise = arguments
    return right(*others, None if noise is None else torch.zeros_like(noise))


def _first_step(quick: bool, seed: int) -> list[Claim]:
    return started(train(importance=1.0, load=1.0, steps=1, seed=seeds(seed, 1)[0]))


CONTROLS = (
    Control("no loss", (model, "balancing_loss", _no_loss), ("steps",), short),
    Control("gates do not start at 0", (model, "_gate", _not_at_zero), ("at the first step",), _first_step),
    Control("no noise", (model, "noisy_top_k", _no_noise), ("CV(importance), no loss",), short),
    Control("gates do not learn", (model, "_gate", random_gate), ("random gates",), learnt),
    Control("the losses are exchanged", (model, "balancing_loss", _exchanged), ("CV(importance) / CV(load)",), alone),
    Control("no loss at all", (model, "balancing_loss", _no_loss), ("max / mean load, ", "largest difference"), alone),
)


# The mechanisms, each against something plainer.

WORDS_OF, INPUTS, K = 4, 3, 2  # how many words and inputs, and experts of a word
FINE = 20_001  # draws of one expert's noise, at even steps of probability


def _drawn(seed: int, experts: int = 5, *gates: int) -> tuple[np.ndarray, ...]:
    """Words, W_g, W_noise and the noise of one gate, or of a row of gates."""
    draws = np.random.default_rng(seed)
    shapes = ((WORDS_OF, INPUTS), (*gates, INPUTS, experts), (*gates, INPUTS, experts), (*gates, WORDS_OF, experts))
    return tuple(draws.normal(size=shape) for shape in shapes)


def _gated(x: np.ndarray, gate: np.ndarray, spread: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, ...]:
    """G(x) and P(x, i) of each word, by equations 3 to 5 and 8."""
    weights, chances = [], []
    for word, own in zip(x, noise, strict=True):
        clean, deviation = word @ gate, np.log1p(np.exp(word @ spread)) + 0.01
        scores = clean + own * deviation
        best = sorted(range(len(scores)), key=lambda e, scores=scores: -scores[e])[:K]
        powers = [math.exp(scores[e]) if e in best else 0.0 for e in range(len(scores))]
        weights.append([power / sum(powers) for power in powers])
        others = [sorted(np.delete(scores, e))[-K] for e in range(len(scores))]
        chances.append([NormalDist().cdf((c - o) / d) for c, o, d in zip(clean, others, deviation, strict=True)])
    return np.array(weights), np.array(chances)


def _choice(x: np.ndarray, gate: np.ndarray, spread: np.ndarray, noise: np.ndarray | None) -> GateChoice:
    parts = (torch.from_numpy(part) for part in (x, gate, spread))
    return noisy_top_k.noisy_top_k(*parts, K, None if noise is None else torch.from_numpy(noise))


def _gate_off(seed: int) -> float:
    """Weights, load and importance, word by word; and without noise."""
    x, gate, spread, noise = _drawn(seed)
    choice, plain = _choice(x, gate, spread, noise), _choice(x, gate, spread, None)
    weights, chances = _gated(x, gate, spread, noise)
    without, _ = _gated(x, gate, spread, 0 * noise)
    routing = noisy_top_k.one_level(choice)
    return apart(
        (noisy_top_k.gate_values(choice), weights),
        (choice.probability, chances),
        (choice.weights, -np.sort(-weights, axis=1)[:, :K]),
        (routing.importance, weights.sum(axis=0)),
        (routing.load, chances.sum(axis=0)),
        (noisy_top_k.gate_values(plain), without),
        (plain.probability, without > 0),
        (noisy_top_k.squared_variation(torch.tensor([1.0, 2, 6])), np.var([1, 2, 6]) / 9),
    )


def _redrawn_off(seed: int) -> float:
    """P(x, i): how often an expert is among the k highest, its own noise drawn anew and all others' kept."""
    x, gate, spread, noise = _drawn(seed)
    draws, found = torch.special.ndtri((torch.arange(FINE) + 0.5).double() / FINE).numpy(), np.zeros((WORDS_OF, 5))
    scores = x @ gate + noise * (np.log1p(np.exp(x @ spread)) + 0.01)
    for word in range(WORDS_OF):
        for expert in range(5):
            again = np.tile(scores[word], (FINE, 1))
            again[:, expert] = (x @ gate)[word, expert] + draws * (np.log1p(np.exp(x @ spread)) + 0.01)[word, expert]
            found[word, expert] = ((again > again[:, [expert]]).sum(axis=1) < K).mean()
    off = np.abs(_choice(x, gate, spread, noise).probability.numpy() - found).max()
    return max(0.0, float(off) - 1 / FINE)  # what so many draws leave open


def _loss_off(seed: int) -> float:
    """The two losses, and their slopes by W_g and W_noise, by differences."""
    x, gate, spread, noise = _drawn(seed)
    parts = [torch.from_numpy(part).requires_grad_() for part in (gate, spread)]
    choice = noisy_top_k.noisy_top_k(torch.from_numpy(x), *parts, K, torch.from_numpy(noise))
    loss = noisy_top_k.balancing_loss(noisy_top_k.one_level(choice), 0.3, 0.7)
    loss.backward()

    def plainly(gate: np.ndarray, spread: np.ndarray) -> float:
        importance, load = (part.sum(axis=0) for part in _gated(x, gate, spread, noise))
        return 0.3 * importance.var() / importance.mean() ** 2 + 0.7 * load.var() / load.mean() ** 2

    return apart(
        (loss, plainly(gate, spread)),
        (parts[0].grad, slopes(lambda at: plainly(at, spread), gate)),
        (parts[1].grad, slopes(lambda at: plainly(gate, at), spread)),
    )


def _levels_off(seed: int) -> float:
    """Two of three groups, and in each two of four experts, word by word: equations 12 to 14."""
    x, gate, spread, noise = _drawn(seed, 3)
    rows = _drawn(seed + 1, 4, 3)[1:]
    routing = noisy_top_k.two_levels(_choice(x, gate, spread, noise), _choice(x, *rows))
    groups, of_group = _gated(x, gate, spread, noise)
    within = [_gated(x, *(part[g] for part in rows)) for g in range(3)]
    importance, load, weights = np.zeros((3, 4)), np.zeros((3, 4)), np.zeros((WORDS_OF, 12))
    for g, (inside, chances) in enumerate(within):
        theirs = groups[:, g] > 0
        importance[g] = (groups[:, g, None] * inside).sum(axis=0)
        load[g] = of_group[:, g].sum() * chances[theirs].sum(axis=0) / max(theirs.sum(), 1)
        weights[:, 4 * g : 4 * g + 4] = groups[:, g, None] * inside
    found = torch.zeros(WORDS_OF, 12, dtype=torch.float64).scatter(1, routing.chosen, routing.weights)
    return apart((routing.importance, importance.ravel()), (routing.load, load.ravel()), (found, weights))


def _layers_off(seed: int) -> float:
    """What each word gets from its own experts; and what layers add to each other in the language model."""
    draws, again = (torch.Generator().manual_seed(seed) for _ in range(2))
    pairs = [(model._matrix((64, 5), draws), (2 * torch.rand(64, 5, generator=again) - 1) / 8)]
    for groups in (0, 2):
        network = model.SparseLanguageModel(20, 6, K, groups, draws)
        gates = [weights for name, weights in network.mixture.named_parameters() if "gate" in name or "spread" in name]
        for each in gates:
            pairs.append((each.detach().clone(), torch.zeros(each.shape)))
            each.data = torch.randn(each.shape, generator=draws) / 8
        words = torch.randint(20, (2, 3), generator=draws)
        scores, routing = network(words, torch.Generator().manual_seed(7))
        below = network.below(network.embedding[words])[0] + network.embedding[words]
        flat = below.flatten(0, 1)
        again = network.mixture.route(flat, torch.Generator().manual_seed(7))
        pairs.append((again.weights, routing.weights))
        if groups:
            pairs.append((routing.levels[0].clean, flat @ network.mixture.primary_gate))
        rows = []
        for x, chosen, weights in zip(flat, routing.chosen.tolist(), routing.weights, strict=True):
            said = [(x @ network.mixture.first[e]).clamp(min=0) @ network.mixture.second[e] for e in chosen]
            rows.append(sum(w * each for w, each in zip(weights, said, strict=True)))
        mixed = 1 / (1 + torch.exp(-torch.stack(rows))) + flat
        above = network.above(mixed.view_as(below))[0] + mixed.view_as(below)
        pairs.append((scores, above.flatten(0, 1) @ network.output + network.bias))
        pairs.append((network.mixture(flat, routing), torch.stack(rows)))
        quiet = [network.mixture.route(flat).weights for _ in range(2)]
        pairs += [(quiet[0], quiet[1]), (torch.equal(quiet[0], again.weights), False)]
    return apart(*pairs)


def _steps_off(seed: int) -> float:
    """Three steps of training on a short text, and what they come to on held-out words, with and without groups."""
    with swapped(model, "english", _short):
        return max(_trained_off(_short(), seed, groups) for groups in (0, 2))


@cache
def _short() -> Words:
    whole = english()
    return Words(whole.training[:400], whole.held_out[:2100], whole.vocabulary)


def _trained_off(text: Words, seed: int, groups: int) -> float:
    with kept(model, "_without_noise") as ended:
        run = train(4, K, 30.0, 20.0, groups, steps=3, seed=seed)
        trace = model.trace_of(run)
    trained, draws = ended[0][0][0], torch.Generator().manual_seed(seed)
    network = model.SparseLanguageModel(len(text.vocabulary), 4, K, groups, draws)
    numbers, pairs = list(network.parameters()), []
    adam = torch.optim.Adam(numbers, 4e-3, fused=True)
    for step in range(3):
        starts = torch.randint(400 - 32, (32, 1), generator=draws)[:, 0].tolist()
        given = torch.stack([torch.from_numpy(text.training[at : at + 32]) for at in starts])
        following = torch.stack([torch.from_numpy(text.training[at + 1 : at + 33]) for at in starts]).flatten()
        scores, routing = network(given, draws)
        cost = cross_entropy(scores, following)
        spreads = [each.var(correction=0) / each.mean() ** 2 for each in (routing.importance, routing.load)]
        adam.zero_grad()
        (cost + 30 * spreads[0] + 20 * spreads[1]).backward()
        clip_grad_norm_(numbers, 1.0)
        adam.step()
        counts = torch.bincount(routing.chosen.flatten(), minlength=4)
        most = [routing.load.max() / routing.load.mean(), counts.max() * 4 / counts.sum()]
        measures = [*(spread.sqrt() for spread in spreads), *most]
        pairs.append((run.balance[step], torch.stack(measures)))
        pairs.append((run.perplexity_by_step[step], cost.exp()))
    held = torch.from_numpy(text.held_out)
    with torch.no_grad():
        both = [trained(held[at : at + 1024].view(32, 32)) for at in (0, 1024)]
        wanted = [held[at + 1 : at + 1025] for at in (0, 1024)]
        costs = [-s.log_softmax(dim=1)[torch.arange(1024), w].mean() for (s, _), w in zip(both, wanted, strict=True)]
    routing = both[0][1]
    weights = np.zeros((1024, 4))
    np.put_along_axis(weights, routing.chosen.numpy(), routing.weights.numpy(), axis=1)
    shown = np.zeros((1024, 4))
    np.put_along_axis(shown, trace.experts[-1].astype(int), trace.weights[-1], axis=1)
    scored = routing.levels[-1].clean.log_softmax(dim=-1)
    if groups:
        of_groups = routing.levels[0].clean.log_softmax(dim=-1)
        scored = torch.cat([of_groups[:, [g]] + scored[g] for g in range(groups)], dim=1)
    pairs.append((torch.from_numpy(trace.logits[-1]).log_softmax(dim=-1), scored))
    pairs += [(run.perplexity, torch.stack(costs).mean().exp()), (shown, weights)]
    return apart(*pairs, *zip(trained.parameters(), numbers, strict=True))


ONE, TWO = noisy_top_k.noisy_top_k, noisy_top_k.two_levels
# fmt: off
MECHANISMS = (
    *noticed_by(
        "a plain loop over words",
        _gate_off,
        ("scores have noise", ONE, "clean + noise * deviation", "clean"),
        ("a variance of all experts", noisy_top_k.squared_variation, "correction=0", "correction=1"),
    ),
    *noticed_by(
        "noise drawn anew",
        _redrawn_off,
        ("P(x, i): an expert's own noise is drawn anew", noisy_top_k.chance_of_choice, "clean - kth_excluding",
         "scores - kth_excluding"),
        ("it has to beat the k-th of the others", noisy_top_k.kth_excluding, "first_out, last_in)",
         "last_in, last_in)"),
    ),
    *noticed_by(
        "losses and slopes by differences",
        _loss_off,
        ("the importance loss has its weight", noisy_top_k.balancing_loss, "importance * squared", "load * squared"),
        ("W_g has a slope", ONE, "clean = x @ gate", "clean = x @ gate.detach() + 0 * x @ gate"),
    ),
    *noticed_by(
        "two levels, word by word",
        _levels_off,
        ("weights of both gates are multiplied", TWO, "take_along_dim(group, dim=1) * primary.weights[:, :, None]",
         "take_along_dim(group, dim=1) / 2"),
        ("load is a mean over the group's words", TWO, " / theirs.sum(dim=0).clamp(min=1)[:, None]", ""),
    ),
    *noticed_by(
        "layers, word by word",
        _layers_off,
        ("all gates start at 0", model._gate, "torch.zeros(shape)), nn", "torch.ones(shape)), nn"),
        ("the primary gate scores the groups", model.SparseMixture.route, "self.primary_gate, self.primary_spread",
         "self.primary_spread, self.primary_gate"),
    ),
    *noticed_by(
        "three steps by hand",
        _steps_off,
        ("the losses are trained on", model.train, "loss + balancing_loss(routing, importance, load)", "loss"),
        ("the trace has the weights", model._one, ".astype(np.int16)", ".astype(np.int16)[:, ::-1]"),
    ),
)
# fmt: on
