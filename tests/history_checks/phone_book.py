"""Do experts hold more of a phone book for the same work, and do they not help to find a rule?"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.negative_controls import Control
from moeviz.history.dense_contrast.decoder import MixtureBlock, TopKChoice
from moeviz.history.phone_book import model
from moeviz.history.phone_book.measure import remembered_by_decoder
from moeviz.history.phone_book.model import BATCH, Facts, Network, RoutedFacts, facts_of, train
from moeviz.history.phone_book.runs import MANY

SMALL = {"facts": 10_000, "steps": 200}  # a book that is learned in seconds
SMALL_DECODER = {"facts": 3_000, "steps": 150}
SHORT = 200  # steps for a rule
MORE = 0.4  # of the small book, at least, by 32 experts
BETTER = 0.4  # of names never seen, at least, by the dense network
SAME_SUM = 1e-5


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims about a small book and a short training; unless quick, also about what the story shows, in minutes."""
    found = [*layer(quick, seed), *work(quick, seed), *more(quick, seed), *rule(quick, seed), *in_decoder(quick, seed)]
    return found if quick else [*found, *at_size(quick, seed)]


def layer(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims about the layer: its sum by a loop, and that its router learns from what experts answer."""
    network, names, x = _network(8, seed), *_inputs(seed)
    choice = network.choose(x, names)
    off = float((network.mixed(x, choice) - _one_by_one(network, x, choice)).detach().abs().max())
    what = "largest difference of what 8 experts answer from a sum over the chosen, one fact at a time"
    network(names)[0].logsumexp(-1).sum().backward()
    moved = 0.0 if network.router.grad is None else float(network.router.grad.norm() / network.up.grad.norm())
    learns = "gradient by the router's weights / by the experts'"
    return [
        Claim(what, off, 0.0, f"below {SAME_SUM}", off < SAME_SUM),
        Claim(learns, moved, NOT_PRINTED, "above 0.01", moved > 0.01),
    ]


def work(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claim that experts do the work of the dense network."""
    names, x = _inputs(seed)
    sparse, dense = _network(8, seed), _network(2, seed)
    with FlopCounterMode(display=False) as counter:
        dense.as_one_block(x)
    share = 4 * sparse.choose(x, names).experts.numel() * sparse.up[0].numel() / counter.get_total_flops()
    what = "multiply-adds of 8 experts, two a fact, without a router / of the dense network"
    return [Claim(what, share, NOT_PRINTED, "exactly 1", share == 1)]


def more(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claim that 32 experts remember more than the dense network that is as fast."""
    dense, sparse = (train(experts=experts, seed=seeds(seed, 1)[0], **SMALL).remembered[-1] for experts in (2, 32))
    what = f"share of {MANY:,} facts remembered, 32 experts - dense, after {SMALL['steps']} steps"
    return [Claim(what, sparse - dense, NOT_PRINTED, f"at least {MORE}", sparse - dense >= MORE, f"dense {dense:.3f}")]


def rule(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claim that the dense network answers more of what it never saw, where few examples follow a rule."""
    dense, sparse = (train("rule", experts, steps=SHORT, seed=seeds(seed, 1)[0]).unseen[-1] for experts in (2, 32))
    what = f"share right of names never seen, 2,000 examples of a rule, dense - 32 experts, after {SHORT} steps"
    gap = dense - sparse
    return [Claim(what, gap, NOT_PRINTED, f"at least {BETTER}", gap >= BETTER, f"32 experts {sparse:.3f}")]


def in_decoder(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claim that the same holds in a decoder built as Mixtral's."""
    size = SMALL_DECODER if quick else {}
    dense, sparse = (remembered_by_decoder(experts, seed=seeds(seed, 1)[0], **size) for experts in (2, 16))
    what = "share of a smaller book remembered in a decoder, 16 experts - dense"
    return [Claim(what, sparse - dense, NOT_PRINTED, "at least 0.2", sparse - dense >= 0.2, f"dense {dense:.3f}")]


def at_size(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Claims about the book of 40,000 facts, and about 10,000 examples of the rule."""
    first = seeds(seed, 1)[0]
    dense, some, all_ = (train(experts=experts, seed=first).remembered[-1] for experts in (2, 8, 32))
    redrawn = train(experts=32, router="redrawn", seed=first).remembered[-1]
    many = min(train("rule", experts, facts=MANY, seed=first).unseen[-1] for experts in (2, 32))
    book = "share of 40,000 facts remembered"
    anew, both = f"{book}, 32 experts drawn anew at every visit - dense", "names never seen, 10,000 examples of a rule"
    return [
        Claim(f"{book}, 8 experts / dense", some / dense, NOT_PRINTED, "at least 1.8", some >= 1.8 * dense),
        Claim(f"{book}, 32 experts", all_, NOT_PRINTED, "at least 0.99", all_ >= 0.99),
        Claim(anew, redrawn - dense, NOT_PRINTED, "below 0", redrawn < dense),
        Claim(f"share right of {both}, worse network", many, NOT_PRINTED, "at least 0.99", many >= 0.99),
    ]


def _shuffled(network: Network, x: torch.Tensor, choice: RoutedFacts) -> torch.Tensor:
    """A layer that gives each fact the answer of the one before it."""
    return _mixed(network, x, choice).roll(1, 0)


def _anew(network: Network, x: torch.Tensor, names: torch.Tensor) -> RoutedFacts:
    """A router that draws experts anew at every visit."""
    return _chosen(torch.randn(len(x), network.experts), network.top_k)


def _three(network: Network, x: torch.Tensor, names: torch.Tensor) -> RoutedFacts:
    """A router that chooses an expert more than it should."""
    return _chosen(x @ network.router, network.top_k + 1)


def _deaf(network: Network, x: torch.Tensor, names: torch.Tensor) -> RoutedFacts:
    """A router whose weights are cut off from what is learned."""
    return _chosen(x @ network.router.detach(), network.top_k)


def _chosen(logits: torch.Tensor, top_k: int) -> RoutedFacts:
    highest, experts = logits.topk(top_k)
    return RoutedFacts(logits, experts, highest.softmax(-1))


def _no_rule(task: str, learned: int, seed: int) -> Facts:
    return _facts_of("book", learned, seed)


def _same_experts(block: MixtureBlock, x: torch.Tensor) -> TopKChoice:
    """A router of the decoder that always says the same two experts."""
    logits = torch.zeros(len(x), len(block.router))
    return TopKChoice(logits, torch.arange(2).expand(len(x), 2), torch.full((len(x), 2), 0.5))


_mixed, _facts_of = Network.mixed, facts_of

CONTROLS = (
    Control("facts get the answers of others", (Network, "mixed", _shuffled), ("one fact at a time",), layer),
    Control("three experts a fact", (Network, "choose", _three), ("multiply-adds",), work),
    Control("the router does not learn", (Network, "choose", _deaf), ("router's weights",), layer),
    Control("experts are drawn anew at every visit", (Network, "choose", _anew), ("facts remembered",), more),
    Control("there is no rule", (model, "facts_of", _no_rule), ("of a rule",), rule),
    Control("the same two experts for all", (MixtureBlock, "choose", _same_experts), ("in a decoder",), in_decoder),
)


def _network(experts: int, seed: int) -> Network:
    return Network(experts, 2, "learned", torch.Generator().manual_seed(seed))


def _inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Names of facts, and what a layer could be given for them."""
    x = torch.randn(BATCH, model.WIDTH, generator=torch.Generator().manual_seed(seed))
    return facts_of("book", BATCH, seed).names[:BATCH], x


def _one_by_one(network: Network, x: torch.Tensor, choice: RoutedFacts) -> torch.Tensor:
    rows = []
    for place, fact in enumerate(x):
        chosen = zip(choice.experts[place].tolist(), choice.weights[place], strict=True)
        parts = [
            weight * ((fact @ network.up[expert] + network.bias[expert, 0]).relu() @ network.down[expert])
            for expert, weight in chosen
        ]
        rows.append(sum(parts))
    return torch.stack(rows)
