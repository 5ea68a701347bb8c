"""Do experts hold more of a phone book for the same work, and do they not help to find a rule?"""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.phone_book import remembered_by_decoder
from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.mechanisms import apart, kept, noticed_by
from history_checks.negative_controls import Control, swapped
from moeviz.history.dense_contrast.decoder import MixtureBlock
from moeviz.history.phone_book import model
from moeviz.history.phone_book.model import BATCH, Facts, Network, facts_of, train
from moeviz.history.phone_book.runs import HELD_OUT, MANY, NAMES
from moeviz.history.shared import experts as shared
from moeviz.history.shared.experts import TopKChoice

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


def _shuffled(network: Network, x: torch.Tensor, choice: TopKChoice) -> torch.Tensor:
    """A layer that gives each fact the answer of the one before it."""
    return _mixed(network, x, choice).roll(1, 0)


def _anew(network: Network, x: torch.Tensor, names: torch.Tensor) -> TopKChoice:
    """A router that draws experts anew at every visit."""
    return _chosen(torch.randn(len(x), network.experts), network.top_k)


def _three(network: Network, x: torch.Tensor, names: torch.Tensor) -> TopKChoice:
    """A router that chooses an expert more than it should."""
    return _chosen(x @ network.router, network.top_k + 1)


def _deaf(network: Network, x: torch.Tensor, names: torch.Tensor) -> TopKChoice:
    """A router whose weights are cut off from what is learned."""
    return _chosen(x @ network.router.detach(), network.top_k)


def _chosen(logits: torch.Tensor, top_k: int) -> TopKChoice:
    highest, experts = logits.topk(top_k)
    return TopKChoice(logits, experts, highest.softmax(-1))


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


def _one_by_one(network: Network, x: torch.Tensor, choice: TopKChoice) -> torch.Tensor:
    rows = []
    for place, fact in enumerate(x):
        chosen = zip(choice.experts[place].tolist(), choice.weights[place], strict=True)
        parts = [
            weight * ((fact @ network.up[expert] + network.bias[expert, 0]).relu() @ network.down[expert])
            for expert, weight in chosen
        ]
        rows.append(sum(parts))
    return torch.stack(rows)


# The mechanisms, each against something plainer.


def _layer_off(seed: int) -> float:
    """The logits of a few facts one by one, of 8 experts and of the dense network, in float64."""
    pairs = []
    for experts in (8, 2):
        network = _network(experts, seed).double()
        with torch.no_grad():
            for parameter in network.norms:
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(seed))
            network.bias.normal_(generator=torch.Generator().manual_seed(seed))
        names = facts_of("book", 12, seed).names[:12]
        logits, choice = network(names)
        plain = [_plain_logits(network, *pair) for pair in names.tolist()]
        pairs.append((logits, torch.stack([each for each, _ in plain])))
        if choice is not None:
            pairs.append((choice.experts, [chosen for _, chosen in plain]))
    return apart(*pairs)


def _plain_logits(network: Network, first: int, second: int) -> tuple[torch.Tensor, list[int]]:
    h = network.first[first] + network.second[second]
    x = h / (h.square().mean() + torch.finfo(h.dtype).eps).sqrt() * network.norms[0]
    each = [(x @ u + b[0]).clamp(min=0) @ d for u, b, d in zip(network.up, network.bias, network.down, strict=True)]
    chosen, weights = [], [1.0] * len(each)
    if len(each) > 2:
        scores = (x @ network.router).tolist()
        chosen = sorted(range(len(each)), key=lambda expert: -scores[expert])[:2]
        powers = [np.exp(scores[expert]) for expert in chosen]
        weights = [powers[chosen.index(e)] / sum(powers) if e in chosen else 0.0 for e in range(len(each))]
    z = h + sum(weight * answer for weight, answer in zip(weights, each, strict=True))
    return (z / (z.square().mean() + torch.finfo(h.dtype).eps).sqrt() * network.norms[1]) @ network.head, chosen


def _step_off(seed: int) -> float:
    """The gradient of one step: cross-entropy, and a hundredth of E Σ f P; and the step sizes of a short run."""
    network, facts = _network(8, seed).double(), facts_of("rule", 60, seed)
    batch = torch.arange(40)
    model._learn(network, torch.optim.SGD(network.parameters(), 0.0), facts, batch)
    ours = {name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None}
    network.zero_grad()
    logits, choice = network(facts.names[:40])
    loss = -logits.log_softmax(-1)[torch.arange(40), facts.numbers[:40]].mean()
    shares = [float((choice.experts == expert).double().mean()) for expert in range(8)]
    loss = loss + 0.01 * 8 * sum(f * p for f, p in zip(shares, choice.logits.softmax(-1).mean(0), strict=True))
    loss.backward()
    wanted = {name: each.grad for name, each in network.named_parameters() if each.grad is not None}
    sizes, most, betas = [], [], []

    def watched(network: Network, optimiser: torch.optim.Optimizer, facts: Facts, batch: torch.Tensor) -> None:
        sizes.append(optimiser.param_groups[0]["lr"])
        most.append(int(batch.max()))
        betas.append(optimiser.param_groups[0]["betas"])

    with swapped(model, "_learn", watched):
        train("rule", 2, steps=100, seed=seed)
    by_hand = [0.02 * min(1, (step + 1) / 50) * (1 - step / 100) for step in range(100)]
    return apart(
        *((ours.get(name, torch.zeros(1)), each) for name, each in wanted.items()),
        (sizes, by_hand),
        (max(most) < 2000, True),
        (betas[0], (0.9, 0.98)),
    )


def _facts_off(seed: int) -> float:
    """Facts of both tasks, and what a run of one step records of them, name by name."""
    book, rule = (facts_of(task, 3000, seed) for task in ("book", "rule"))
    pairs = [(len({tuple(pair) for pair in facts.names.tolist()}), NAMES**2) for facts in (book, rule)]
    table = torch.zeros(NAMES, NAMES, dtype=torch.int64).index_put(tuple(rule.names.T), rule.numbers)
    p, q = table[:, :1] // 8, table[:1] % 8  # any row and column tells a name's own share
    pairs += [(table, 8 * p + q), (bool(((book.numbers >= 0) & (book.numbers < 64)).all()), True)]
    pairs.append((bool((facts_of("book", 3000, seed + 1).numbers == book.numbers).all()), False))
    pairs += [(len(each.unique()), 64) for each in (book.numbers, rule.numbers)]
    pairs.append((torch.bincount(book.numbers).max() < 2 * NAMES**2 / 64, True))
    with kept(model, "_recorded") as calls:
        run = train("rule", 8, facts=3000, steps=1, seed=seed)
    (_, _, network, facts), _ = calls[-1]
    with torch.no_grad():
        said = torch.cat([network(part)[0].argmax(-1) for part in facts.names.split(5000)])
        right = (said == facts.numbers).double()
        chosen = network(torch.tensor([[f, s] for f in range(16) for s in range(24)]))[1].experts
    order = {tuple(pair): at for at, pair in enumerate(facts.names.tolist())}
    wall = [order[f, s] for f in range(16) for s in range(24)]
    return apart(
        *pairs,
        (run.remembered[-1], right[:3000].mean()),
        (run.unseen[-1], right[-HELD_OUT:].mean()),
        (run.seen, np.array(wall) < 3000),
        (run.answers, said[wall]),
        (run.right[-1], right[wall]),
        (run.experts[-1], chosen),
        (run.at_work, 2 * (2 * 48 * 48 + 48)),
    )


# fmt: off
MECHANISMS = (
    *noticed_by(
        "facts one by one",
        _layer_off,
        ("two embeddings are summed", Network.forward, " + self.second[names[:, 1]]", ""),
        ("each expert has its queue", shared.queued, "chosen * room + place", "chosen * room"),
    ),
    *noticed_by(
        "one step by hand",
        _step_off,
        ("the balancing loss is trained on", model._learn, "loss + BALANCE", "loss + 0 * BALANCE"),
        ("held-out facts are not learned", model._train, "torch.randint(known.learned,", "torch.randint(60_000,"),
    ),
    *noticed_by(
        "facts and records, name by name",
        _facts_off,
        ("no pair of names comes twice", facts_of, "torch.randperm(NAMES**2,", "torch.randint(NAMES**2, (NAMES**2,),"),
        ("two experts are at work", model._begun, "of_experts * network.top_k // network.experts", "of_experts"),
    ),
)
# fmt: on
