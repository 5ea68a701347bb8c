"""Measures all of the phone book that ships. `python -m benchmarks.history phone-book` writes it."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from moeviz.history.phone_book.decoder import FACTS, LEARNING_RATE, STEPS, TOP_K, remembered_by_decoder
from moeviz.history.phone_book.model import train
from moeviz.history.phone_book.runs import HERE, MANY, NETWORKS, RECORDED, BookRun
from moeviz.history.shared.results import save

SEEDS = (0, 1, 2)
ONE_SEED = (0,)
ROUTES = {
    "fixed": "router never learns",
    "kept": "drawn once a name",
    "redrawn": "drawn anew each visit",
}

# In the order of the table: a part of it, a name, the arguments of `train`, and the seeds.
Measured = tuple[str, str, dict[str, Any], tuple[int, ...]]
MEASURED: tuple[Measured, ...] = (
    *(("book", name, {"experts": experts}, SEEDS) for name, experts in NETWORKS.items()),
    *(("rule", name, {"task": "rule", "experts": experts}, SEEDS) for name, experts in NETWORKS.items()),
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
    ("controls", "dense, as large as 8 experts", {"experts": 8, "top_k": 8}, ONE_SEED),
    ("controls", "dense, as large as 32 experts", {"experts": 32, "top_k": 32}, ONE_SEED),
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
    return settings | shares | {name: getattr(run, name) for name in ("parameters", "expert_parameters", "at_work")}


def _of_decoder(experts: int, seed: int) -> dict[str, Any]:
    settings = {"task": "book", "facts": FACTS, "experts": experts, "top_k": TOP_K, "router": "learned"}
    settings |= {"steps": STEPS, "learning_rate": LEARNING_RATE, "seed": seed}
    unknown = dict.fromkeys(("unseen", "parameters", "expert_parameters", "at_work"))
    return settings | {"remembered": remembered_by_decoder(experts, seed=seed)} | unknown
