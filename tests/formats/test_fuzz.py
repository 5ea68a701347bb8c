"""What fuzzing found, read again, and a little more of it: each ends well or in one sentence."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opened_instead import open_instead

from tests.attack import fuzz
from tests.attack.fuzz_targets import TARGETS, link_seeds

FOUND = sorted(fuzz.FOUND.iterdir())


@pytest.fixture
def ready(monkeypatch, tmp_path):
    """Let a target change what it changes in this process, for one test."""

    def prepare(name: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        if name == "cli":
            open_instead(monkeypatch, None)
            monkeypatch.setattr("moeviz.cli.families.differences", None)
            for place in ("trained", "check"):
                monkeypatch.setattr(f"moeviz.cli.history.{place}", None)
            monkeypatch.setattr("tests.attack.fuzz_targets.tempfile.mkdtemp", lambda prefix: str(tmp_path))
            TARGETS[name].prepare()

    return prepare


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_was_found_is_read_or_refused_in_a_sentence(path, ready, monkeypatch):
    target = TARGETS[path.name.partition("-")[0]]
    monkeypatch.setattr("sys.stdin", None)
    ready(target.name)
    assert target.execute(path.read_bytes()) in (True, False)


@pytest.mark.parametrize("name", ["csv", "parquet", "json", "npz", "links"])
def test_the_valid_inputs_are_good_and_each_way_to_change_one_changes_it(name):
    target = TARGETS[name]
    seeds = target.seeds()
    assert all(target.execute(data) for data in seeds)
    for mutation in target.mutations:
        assert any(mutation(seeds[0], random.Random(seed)) != seeds[0] for seed in range(9)), mutation


@given(st.sampled_from(link_seeds()), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_whatever_a_link_says_a_page_takes_what_it_knows_and_ignores_the_rest(data, seeds):
    for seed in seeds:
        data = TARGETS["links"].mutate(data, seed)
    TARGETS["links"].execute(data)


@given(st.sampled_from(["csv", "parquet", "json", "npz"]), st.integers(0, 2), st.integers(0, 2**32 - 1))
@example("parquet", 0, 38956)  # a column of half floats
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name, which, seed):
    target = TARGETS[name]
    target.execute(target.mutate(target.seeds()[which], seed))
