"""What holds of every system that is trained: its seeds, its watcher, what it refuses, its files, its mechanisms."""

import inspect
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from history_checks.mechanisms import claims_about
from history_checks.reproduction_claims import WITH_CHECKS, mechanisms_of
from watching import heard_until_stopped

from moeviz.errors import MoevizError
from moeviz.history.phone_book.model import ROUTERS
from moeviz.history.shared.results import load, save
from moeviz.history.systems import BESIDE, SYSTEMS, part, shipped_result

BRIEF: dict[str, dict[str, Any]] = {
    "local-experts": {"max_epochs": 5},
    "hierarchical": {"passes": 2},
    "hmm-experts": {"experts": 3, "states": 2},
    "svm-experts": {"experts": 2, "iterations": 1},
    "deep-mixture": {"epochs": 1},
    "conditional": {"epochs": 1},
    "sparsely-gated": {"steps": 3},
    "switch": {"steps": 3},
    "dense": {"steps": 3},
}
# Arguments that make no system, and a value that the sentence has to name.
REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("local-experts", {"error": "squared"}, "cooperative"),
    ("local-experts", {"experts": 0}, "1"),
    ("hierarchical", {"passes": 0}, "0"),
    ("hmm-experts", {"assignment": "firm"}, "firm"),
    ("hmm-experts", {"start": "zero"}, "zero"),
    ("hmm-experts", {"experts": 0}, "1"),
    ("hmm-experts", {"states": 0}, "1"),
    ("hmm-experts", {"experts": 5, "supervised": True}, "9"),
    *(
        ("svm-experts", wrong, "64")
        for wrong in ({"experts": 0}, {"experts": 65}, {"room": -1}, {"kernel": "cubic"}, {"iterations": 0})
    ),
    ("deep-mixture", {"experts": 1}, "2"),
    ("deep-mixture", {"epochs": 0}, "1"),
    ("conditional", {"estimator": "backpropagation"}, "straight-through"),
    *(("conditional", {"target": target}, str(target)) for target in (0.0, 1.5, float("nan"))),
    ("conditional", {"sparsity": -1.0}, "-1.0"),
    ("conditional", {"variance": float("nan")}, "nan"),
    ("conditional", {"blocks": 0}, "0"),
    ("conditional", {"epochs": 0}, "0"),
    ("sparsely-gated", {"top_k": 17}, "16"),
    ("sparsely-gated", {"groups": 4, "top_k": 5}, "4"),
    ("sparsely-gated", {"groups": 3}, "3"),
    ("sparsely-gated", {"experts": 300}, "256"),
    ("sparsely-gated", {"load": -1.0}, "0"),
    ("sparsely-gated", {"steps": 0}, "1"),
    ("switch", {"experts": 0}, "64"),
    ("switch", {"experts": 65}, "65"),
    ("switch", {"steps": 0}, "0"),
    ("switch", {"capacity_factor": 0.0}, "0.0"),
    ("switch", {"aux_weight": -1.0}, "-1.0"),
    ("dense", {"kind": "dense"}, "as fast"),
    ("dense", {"experts": 1}, "64"),
    ("dense", {"top_k": 9}, "9"),
    ("dense", {"top_k": 0}, "0"),
    ("dense", {"steps": 0}, "1"),
)
every_system = pytest.mark.parametrize("name", SYSTEMS)


def same(one: object, other: object) -> bool:
    """Whether two results have the same values in each field."""
    return all(
        np.array_equal(getattr(one, each.name), getattr(other, each.name))
        if isinstance(getattr(one, each.name), np.ndarray)
        else getattr(one, each.name) == getattr(other, each.name)
        for each in fields(one)
    )


@every_system
def test_the_same_seed_gives_the_same_result_another_seed_another_and_nothing_is_drawn_for_others(name, tmp_path):
    train = part(name, "model").train
    torch.manual_seed(9)
    np.random.seed(9)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (train(**BRIEF[name], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert same(first, again) and not same(first, other)
    save(first, tmp_path / "result.npz")
    assert same(first, load(type(first), tmp_path / "result.npz")), "it comes back from its file"


@every_system
def test_who_watches_hears_how_far_it_is_and_may_stop(name):
    heard = heard_until_stopped(part(name, "model").train, 2)
    shares = [done for done, _ in heard]
    assert shares[0] == 0 <= shares[1] < 1 and all(says for _, says in heard)


@pytest.mark.parametrize(("name", "wrong", "named"), REFUSED, ids=lambda value: str(value))
def test_what_cannot_be_trained_is_refused_with_the_value_that_counts(name, wrong, named):
    with pytest.raises(MoevizError) as refused:
        part(name, "model").train(**wrong)
    assert named in str(refused.value)


@every_system
def test_what_ships_was_trained_with_the_default_settings(name):
    given = {key: each.default for key, each in inspect.signature(part(name, "model").train).parameters.items()}
    settings = shipped_result(name).settings
    assert {key: given[key] for key in settings if key in given and given[key] is not None} == {
        key: settings[key] for key in settings if key in given and given[key] is not None
    }
    assert settings["seed"] == 0 and set(BESIDE) < set(SYSTEMS)


@pytest.mark.parametrize("name", [name for name in WITH_CHECKS if mechanisms_of(name)])
def test_each_mechanism_is_what_something_plainer_says(name):
    mechanisms = mechanisms_of(name)
    found = claims_about(mechanisms, seed=1)
    assert found and not [claim.what for claim in found if not claim.passed]
    assert len({(each.function, each.right, each.wrong) for each in mechanisms}) == len(mechanisms)


def test_a_router_of_the_phone_book_is_one_of_four():
    assert set(ROUTERS) == {"learned", "fixed", "kept", "redrawn"}
