"""Measures all of the phone book that ships. `python -m benchmarks.history phone-book` writes it.

The names are learned once more by a decoder built as Mixtral's, with attention, SwiGLU experts and a router: name,
name, number. It has one layer of 16 experts of 16 hidden units, two at a time, or one dense block of 32.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from moeviz.history.dense_contrast.decoder import INITIAL_SPREAD, Decoder, Sizes, at_random
from moeviz.history.phone_book.model import BALANCE, BATCH, NAMES, NUMBERS, WARM_UP, Facts, facts_of, train
from moeviz.history.phone_book.runs import HERE, MANY, NETWORKS, RECORDED, BookRun
from moeviz.history.shared.experts import balancing_loss
from moeviz.history.shared.results import save

WIDTH, HIDDEN, HEADS, TOP_K = 48, 16, 2, 2
FACTS, STEPS, LEARNING_RATE = 10_000, 600, 1e-2
LONGEST_GRADIENT = 1.0


def remembered_by_decoder(experts: int, facts: int = FACTS, steps: int = STEPS, seed: int = 0) -> float:
    """Train a decoder on a phone book, and return the share of its facts that it answers correctly.

    `experts` are those of its one layer, two at a time; with 2 it is the dense network that is as fast.
    """
    sizes = Sizes(2 * NAMES + NUMBERS, WIDTH, HIDDEN, 1, HEADS, 1, experts, TOP_K)
    decoder = at_random(sizes if experts > TOP_K else sizes.as_fast(), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_((1.0 if "embedding" in name else parameter.shape[-1] ** -0.5) / INITIAL_SPREAD)
    known = facts_of("book", facts, seed)
    optimiser = torch.optim.Adam(decoder.parameters(), LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    batches = torch.Generator().manual_seed(1000 + seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        loss = _loss(decoder, known, torch.randint(facts, (BATCH,), generator=batches))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), LONGEST_GRADIENT)
        optimiser.step()
    with torch.no_grad():
        answers = decoder(_words(known.names[:facts]))[0][:, -1].argmax(-1)
    return float((answers == 2 * NAMES + known.numbers[:facts]).double().mean())


def _words(names: torch.Tensor) -> torch.Tensor:
    """Count two words per fact: all names are words of their own, and numbers follow them in the vocabulary."""
    return names + torch.tensor([0, NAMES])


def _loss(decoder: Decoder, facts: Facts, batch: torch.Tensor) -> torch.Tensor:
    logits, choices = decoder(_words(facts.names[batch]))
    loss = F.cross_entropy(logits[:, -1], 2 * NAMES + facts.numbers[batch])
    return loss + BALANCE * sum(balancing_loss(choice.logits.softmax(-1), choice.experts) for choice in choices)


SEEDS = (0, 1, 2)
ONE_SEED = (0,)
ROUTES = {"fixed": "router never learns", "kept": "drawn once a name", "redrawn": "drawn anew each visit"}

# In the order of the table: a part of it, a name, the arguments of `train`, and the seeds.
Measured = tuple[str, str, dict[str, Any], tuple[int, ...]]
MEASURED: tuple[Measured, ...] = (
    *(("book", name, {"experts": experts}, SEEDS) for name, experts in NETWORKS.items()),
    *(("rule", name, {"task": "rule", "experts": experts}, SEEDS) for name, experts in NETWORKS.items()),
    *(("rule", f"dense, as large as {n} experts", {"task": "rule", "experts": n, "top_k": n}, SEEDS) for n in (8, 32)),
    *(
        ("rule", name, {"task": "rule", "experts": NETWORKS[name], "facts": MANY}, SEEDS)
        for name in ("dense", "32 experts")
    ),
    ("controls", "16 experts", {"experts": 16}, ONE_SEED),
    ("controls", "dense, half the step size", {"experts": 2, "learning_rate": 1e-2}, ONE_SEED),
    ("controls", "dense, double the step size", {"experts": 2, "learning_rate": 4e-2}, ONE_SEED),
    ("controls", "dense, three times as long", {"experts": 2, "steps": 9000}, ONE_SEED),
    *(
        ("controls", f"{experts} experts, {what}", {"experts": experts, "router": router}, ONE_SEED)
        for router, what in ROUTES.items()
        for experts in (8, 32)
    ),
    *(("controls", f"dense, as large as {n} experts", {"experts": n, "top_k": n}, SEEDS) for n in (8, 32)),
    *(
        ("rule", f"{name}, half the step size", {"task": "rule", "experts": experts, "learning_rate": 1e-2}, ONE_SEED)
        for name, experts in NETWORKS.items()
        if experts != 8
    ),
    ("decoder", "dense", {"experts": 2}, ONE_SEED),
    ("decoder", "16 experts", {"experts": 16}, ONE_SEED),
)


def measure() -> Iterator[pd.DataFrame]:
    """Train all that ships, and yield the rows of `book_table` one by one; runs of RECORDED are saved meanwhile."""
    files = {settings: name for name, settings in RECORDED.items()}
    for part, name, settings, seeds in MEASURED:
        for seed in seeds:
            if part == "decoder":
                found = _of_decoder(seed=seed, **settings)
            else:
                found = _of_run(run := train(seed=seed, **settings))
                if seed == 0 and settings.keys() <= {"task", "experts"} and (part, run.settings["experts"]) in files:
                    save(run, HERE / f"{files[part, run.settings['experts']]}.npz")
            yield pd.DataFrame([{"part": part, "name": name} | found])


def _of_run(run: BookRun) -> dict[str, Any]:
    settings = {name: value for name, value in run.settings.items() if name != "book"}
    shares = {"remembered": run.remembered[-1], "unseen": run.unseen[-1]}
    shares["best"] = run.unseen.max() if run.settings["task"] == "rule" else None
    return settings | shares | {name: getattr(run, name) for name in ("parameters", "expert_parameters", "at_work")}


def _of_decoder(experts: int, seed: int) -> dict[str, Any]:
    settings = {"task": "book", "facts": FACTS, "experts": experts, "top_k": TOP_K, "router": "learned"}
    settings |= {"steps": STEPS, "learning_rate": LEARNING_RATE, "seed": seed}
    unknown = dict.fromkeys(("unseen", "best", "parameters", "expert_parameters", "at_work"))
    return settings | {"remembered": remembered_by_decoder(experts, seed=seed)} | unknown
