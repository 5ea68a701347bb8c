"""The table of the systems that run here, from 1991 on. Each has its own folder, loaded when it is asked for."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from moeviz.errors import MoevizError
from moeviz.history.shared.results import Watch, unwatched

SHIPS_WITH = "trained with the default settings and seed 0"


@dataclass(frozen=True, slots=True)
class System:
    """One system of the gallery.

    In its folder, `model` has `train(seed=…, watch=…, …)`, whose defaults are the settings that ship; `trace` makes a
    trace of the result, `picture` the numbers of its paper's picture, `chart` draws them, and `checks` holds what its
    paper claims.
    """

    year: str
    title: str  # of its page
    folder: str
    what: str  # in a line


SYSTEMS = {
    "local-experts": System(
        "1991", "Local experts", "local_experts_1991", "four small experts and a gate tell vowels apart"
    ),
    "hierarchical": System(
        "1994", "Hierarchical mixture", "hierarchical_1994", "a tree of gates, which learns in a few passes"
    ),
    "hmm-experts": System(
        "1996", "HMM experts", "hmm_experts_1996", "hidden Markov models; the gate decides frame by frame"
    ),
    "svm-experts": System(
        "2002", "SVM experts", "svm_experts_2002", "support vector machines, each with a limited capacity"
    ),
    "deep-mixture": System(
        "2013",
        "Deep mixture",
        "deep_mixture_2013",
        "two layers: the first responds to where a digit is, the second to what it is",
    ),
    "conditional": System(
        "2013, 2015",
        "Conditional computation",
        "conditional_computation_2015",
        "a policy switches blocks of a network on",
    ),
    "sparsely-gated": System(
        "2017", "Sparsely gated", "sparsely_gated_2017", "a layer of many experts between two LSTMs, with noisy top-k"
    ),
    "switch": System("2021", "Switch", "switch_2021", "one expert per token, and what does not fit is dropped"),
    "dense": System(
        "2024", "Dense contrast", "dense_contrast", "a mixture next to two dense networks: one as fast, one as large"
    ),
}


def system(name: str) -> System:
    """The system of that name. Raises `MoevizError` if there is none."""
    if name not in SYSTEMS:
        raise MoevizError(f"There is no system {name!r} to train here. Choose one of {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def train(name: str, seed: int = 0, watch: Watch = unwatched) -> Any:
    """Train a system with its default settings; the same seed gives the same result."""
    return part(name, "model").train(seed=seed, watch=watch)


def part(name: str, file: str) -> ModuleType:
    """One file of a system's folder: its `model`, `trace`, `picture`, `chart` or `checks`."""
    return import_module(f"moeviz.history.{system(name).folder}.{file}")
