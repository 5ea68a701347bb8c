"""A phone book learned by heart: more experts hold more of it for the same work. With a rule instead, they do not help.

A fact is a first and a second name and their number, one of 64. In the book, numbers are drawn at random, so there is
nothing to understand. In the rule, the number is 8 p + q: every first name has a p, every second name a q, and a pair
that was never seen has an answer too. One network learns either: the names' two embeddings are summed, one layer of
experts is added, and a softmax gives the number. With all experts on it is dense, one block.

Sources: the layer is that of Jiang et al., Mixtral of Experts (arXiv 2401.04088), section 2.1, with experts of one
hidden layer; the loss that keeps experts balanced is that of Switch Transformers (arXiv 2101.03961), equations 4 to 6.
That experts help to remember more than to reason: Jelassi et al., Mixture of Parrots (arXiv 2410.19034). Task and sizes
are ours.

T facts at once, D width, H hidden units of an expert, E experts, K chosen of them, V numbers; W names on the wall.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from moeviz.errors import MoevizError
from moeviz.history.phone_book.runs import HELD_OUT, HIDDEN, NAMES, NUMBERS, TASKS, WALL, WIDTH, BookRun
from moeviz.history.shared.experts import TopKChoice, balancing_loss, queued

STEPS, BATCH, LEARNING_RATE = 3000, 1024, 2e-2
WARM_UP = 50  # steps
BALANCE = 0.01  # α: the weight of the balancing loss
RECORD_EVERY = 100  # steps
MOST_FACTS = NAMES**2 - HELD_OUT
AT_ONCE = 4096  # facts that are asked for together
MOST_EXPERTS = 64
ROUTERS = ("learned", "fixed", "kept", "redrawn")


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Pairs of names and their numbers, in the order in which they are learned; the last ones never are."""

    names: Int64[Tensor, "pairs 2"]  # a first and a second name, each from 0 to 255
    numbers: Int64[Tensor, " pairs"]
    learned: int  # number of them, from the first


def nobody(run: BookRun) -> None:
    """Watch nothing."""


def train(
    task: str = "book",
    experts: int = 32,
    top_k: int = 2,
    router: str = "learned",
    facts: int | None = None,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    book: int | None = None,
    watch: Callable[[BookRun], None] = nobody,
) -> BookRun:
    """Train a network on facts of a phone book or of a rule, and ask it for each of them.

    `task` is one of TASKS, and `facts` how many are learned. A network of `top_k` experts in all is dense: `experts=2`
    is as fast as two chosen of 32. `router` is one of ROUTERS: it learns; it stays as it was drawn; experts are drawn
    once for each fact, and kept; or they are drawn anew at every visit. `book` is the seed of the facts, by default
    `seed`, which is that of the weights and batches. The same arguments, the same result, on one machine.
    `watch` is called with the run so far every 100 steps; it may raise, and training ends.

    Raises `MoevizError` for an unknown task or router, or arguments that make no network.
    """
    learned = TASKS.get(task, 0) if facts is None else facts
    _check(task, experts, top_k, router, learned, steps)
    settings = {"task": task, "facts": learned, "experts": experts, "top_k": top_k, "router": router, "steps": steps}
    settings |= {"learning_rate": learning_rate, "seed": seed, "book": seed if book is None else book}
    with _one_thread():
        return _train(settings, watch)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch compute on one thread: matrices are small, and two took ten times as long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(settings: dict[str, Any], watch: Callable[[BookRun], None]) -> BookRun:
    known = facts_of(settings["task"], settings["facts"], settings["book"])
    weights, batches, lots = (torch.Generator().manual_seed(3 * settings["seed"] + purpose) for purpose in range(3))
    network = Network(settings["experts"], settings["top_k"], settings["router"], weights, lots)
    steps, highest = settings["steps"], settings["learning_rate"]
    optimiser = torch.optim.Adam(network.parameters(), highest, betas=(0.9, 0.98), fused=True)
    run = _begun(settings, network, known)
    for step in range(steps):
        if step % RECORD_EVERY == 0:
            run = _recorded(run, step, network, known)
            watch(run)
        for group in optimiser.param_groups:
            group["lr"] = highest * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        _learn(network, optimiser, known, torch.randint(known.learned, (BATCH,), generator=batches))
    run = _recorded(run, steps, network, known)
    watch(run)
    return run


def _check(task: str, experts: int, top_k: int, router: str, facts: int, steps: int) -> None:
    if task not in TASKS or router not in ROUTERS:
        raise MoevizError(
            f"Got the task {task!r} and the router {router!r}. Choose a task of {', '.join(TASKS)}, and a router of "
            f"{', '.join(ROUTERS)}."
        )
    if not (1 <= top_k <= experts <= MOST_EXPERTS and 1 <= facts <= MOST_FACTS and steps >= 1):
        raise MoevizError(
            f"Got {experts} experts, {top_k} of them per fact, {facts:,} facts and {steps:,} steps. Choose 1 to "
            f"{MOST_EXPERTS} experts, from 1 to all of them per fact, 1 to {MOST_FACTS:,} facts, and at least 1 step."
        )


def facts_of(task: str, learned: int, seed: int) -> Facts:
    """Return the facts of a phone book ("book") or of a rule ("rule"), of which the first `learned` are learned."""
    drawn = torch.Generator().manual_seed(1000 + seed)
    pairs = torch.randperm(NAMES**2, generator=drawn)
    names = torch.stack([pairs // NAMES, pairs % NAMES], 1)
    if task == "book":
        return Facts(names, torch.randint(NUMBERS, (len(pairs),), generator=drawn), learned)
    p, q = torch.randint(8, (2, NAMES), generator=drawn)
    return Facts(names, 8 * p[names[:, 0]] + q[names[:, 1]], learned)


class Network(nn.Module):
    """Two embeddings, one layer of experts, and the logits of the number."""

    def __init__(
        self, experts: int, top_k: int, router: str, weights: torch.Generator, lots: torch.Generator | None = None
    ) -> None:
        super().__init__()

        def drawn(*shape: int, spread: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=weights) * spread)

        self.experts, self.top_k, self.kind, self.lots = experts, top_k, router, lots
        self.first, self.second = (drawn(NAMES, WIDTH, spread=1.0) for _ in range(2))
        self.up = drawn(experts, WIDTH, HIDDEN, spread=WIDTH**-0.5)
        self.bias = nn.Parameter(torch.zeros(experts, 1, HIDDEN))
        self.down = drawn(experts, HIDDEN, WIDTH, spread=HIDDEN**-0.5)
        self.head = drawn(WIDTH, NUMBERS, spread=WIDTH**-0.5)
        self.norms = nn.ParameterList(torch.ones(WIDTH) for _ in range(2))
        if top_k < experts:
            self.router = drawn(WIDTH, experts, spread=WIDTH**-0.5).requires_grad_(router == "learned")
            self.of_fact = torch.randn(NAMES**2, experts, generator=lots) if router == "kept" else None

    def forward(self, names: Int64[Tensor, "T 2"]) -> tuple[Float[Tensor, "T V"], TopKChoice | None]:
        """Return the logits of the number, and what the router decided: nothing in a dense network."""
        h = self.first[names[:, 0]] + self.second[names[:, 1]]
        x = F.rms_norm(h, h.shape[1:]) * self.norms[0]
        choice = None if self.top_k == self.experts else self.choose(x, names)
        z = h + (self.as_one_block(x) if choice is None else self.mixed(x, choice))
        return (F.rms_norm(z, z.shape[1:]) * self.norms[1]) @ self.head, choice

    def choose(self, x: Float[Tensor, "T D"], names: Int64[Tensor, "T 2"]) -> TopKChoice:
        """Return the K experts of the highest logits, and a softmax over these."""
        if self.kind == "redrawn":
            logits = torch.randn(len(x), self.experts, generator=self.lots)
        elif self.kind == "kept":
            logits = self.of_fact[names[:, 0] * NAMES + names[:, 1]]
        else:
            logits = x @ self.router
        highest, experts = logits.topk(self.top_k, dim=-1)
        return TopKChoice(logits, experts, highest.softmax(dim=-1))

    def as_one_block(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Output of all experts, each with weight 1: a dense block of E·H hidden units."""
        return (x @ self.up.transpose(0, 1).flatten(1) + self.bias.flatten()).relu() @ self.down.flatten(0, 1)

    def mixed(self, x: Float[Tensor, "T D"], choice: TopKChoice) -> Float[Tensor, "T D"]:
        """Weighted sum of what the chosen experts answer."""
        queues = queued(x.repeat_interleave(self.top_k, 0), choice.experts.flatten(), self.experts)
        answers = (queues.tokens.bmm(self.up) + self.bias).relu().bmm(self.down)
        own = answers.flatten(0, 1)[queues.slots].view(len(x), self.top_k, WIDTH)
        return (own * choice.weights[:, :, None]).sum(1)


def _learn(network: Network, optimiser: torch.optim.Optimizer, facts: Facts, batch: Int64[Tensor, " T"]) -> None:
    logits, choice = network(facts.names[batch])
    loss = F.cross_entropy(logits, facts.numbers[batch])
    if choice is not None:
        loss = loss + BALANCE * balancing_loss(choice.logits.softmax(dim=-1), choice.experts)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@torch.no_grad()
def _answers(network: Network, names: Int64[Tensor, "T 2"]) -> Int64[Tensor, " T"]:
    return torch.cat([network(part)[0].argmax(-1) for part in names.split(AT_ONCE)])


def _begun(settings: dict[str, Any], network: Network, facts: Facts) -> BookRun:
    wall = _on_the_wall()
    order = torch.empty(NAMES**2, dtype=torch.int64)
    order[facts.names[:, 0] * NAMES + facts.names[:, 1]] = torch.arange(NAMES**2)
    place = order[wall[:, 0] * NAMES + wall[:, 1]]
    of_experts = sum(part.numel() for part in (network.up, network.bias, network.down))
    none = np.zeros(0)
    return BookRun(
        settings=settings,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        expert_parameters=of_experts,
        at_work=of_experts * network.top_k // network.experts,
        recorded=(),
        remembered=none,
        unseen=none,
        right=np.zeros((0, len(wall)), dtype=bool),
        seen=(place < facts.learned).numpy(),
        numbers=facts.numbers[place].numpy().astype(np.int8),
        answers=np.zeros(len(wall), np.int8),
        experts=np.zeros((0, len(wall), network.top_k % network.experts), np.int8),
    )


@torch.no_grad()
def _recorded(run: BookRun, step: int, network: Network, facts: Facts) -> BookRun:
    """Add the network's answers after this many steps to the run."""

    def share(part: slice) -> float:
        return float((_answers(network, facts.names[part]) == facts.numbers[part]).double().mean())

    logits, choice = network(_on_the_wall())
    answers = logits.argmax(-1).numpy().astype(np.int8)
    chosen = np.zeros((1, len(answers), 0)) if choice is None else choice.experts.numpy()[None]
    return replace(
        run,
        recorded=(*run.recorded, step),
        remembered=np.append(run.remembered, share(slice(facts.learned))),
        unseen=np.append(run.unseen, share(slice(-HELD_OUT, None))),
        right=np.concatenate([run.right, [answers == run.numbers]]),
        answers=answers,
        experts=np.concatenate([run.experts, chosen.astype(np.int8)]),
    )


def _on_the_wall() -> Int64[Tensor, "W 2"]:
    return torch.cartesian_prod(*(torch.arange(names) for names in WALL))
