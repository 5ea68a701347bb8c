"""What the systems of the gallery share: their data, their files, their checks, and the article they go with."""

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from history_checks import mixtral as mixtral
from history_checks.reproduction_claims import WITH_CHECKS, check_claims, claims_of

from moeviz.errors import MoevizError
from moeviz.history import systems
from moeviz.history.mixtral.exhibit import published_divergence, published_load, published_repetition
from moeviz.history.shared import datasets, results
from moeviz.history.story import CORRECTIONS, POINTS, corrections
from moeviz.history.systems import SYSTEMS, part, shipped_result, shipped_trace
from moeviz.history.timeline.published_counts import published_counts, readings
from moeviz.metrics.words import in_words_of
from moeviz_app.views.history.gallery import goes_to_all_experts, pages_for
from moeviz_app.views.menu import GALLERY, MENU

ROOT = Path(__file__).parents[2]
PAGES = [name for names in MENU.values() for name in names]


def test_the_digits_are_those_of_mnist_mixed_and_divided_once():
    training, test = datasets.digits()
    assert training.images.shape == (4000, 28, 28) and test.images.shape == (1000, 28, 28)
    assert (np.bincount(training.digit) + np.bincount(test.digit) == 500).all()
    assert np.bincount(test.digit).min() > 70
    again, _ = datasets.digits()
    assert np.array_equal(training.digit, again.digit)


def test_the_utterances_are_divided_as_their_authors_did():
    training, test = datasets.japanese_vowels()
    assert np.bincount(training.speaker).tolist() == [30] * 9
    assert np.bincount(test.speaker).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    lengths = [len(frames) for frames in training.frames + test.frames]
    assert (min(lengths), max(lengths)) == (7, 29) and len(lengths) == 640
    assert training.frames[0][0, 0] == np.float32(1.860936)


def test_english_is_words_and_signs_of_a_vocabulary():
    words = datasets.english()
    assert len(words.vocabulary) == 2000 and words.vocabulary[0] == datasets.UNKNOWN
    assert max(words.training.max(), words.held_out.max()) < 2000
    assert (len(words.training), len(words.held_out)) == (89_398, 7_083), "the text does not change"
    assert (np.diff(words.training) != 0).all() and (np.diff(words.held_out) != 0).all()
    assert [words.vocabulary[word] for word in words.training[:5]] == ["The", '"', "assert", '"', "statement"]


def test_a_file_that_was_changed_is_refused(monkeypatch):
    monkeypatch.setitem(datasets.SHA256, "digits.npz", "0" * 64)
    with pytest.raises(MoevizError, match="SHA-256"):
        datasets.digits()


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_ships_a_result_and_makes_a_trace_of_it(name):
    trace = shipped_trace(name)
    assert trace.model.backend == "mixture" and 0 < len(trace.tokens) <= 1500
    assert Path(part(name, "model").__file__).with_name(results.SHIPPED).stat().st_size < 400_000


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_a_page_offers_at_first_is_what_the_result_that_ships_was_trained_with(name):
    exhibit, chosen = part(name, "exhibit").EXHIBIT, {}
    for choice in exhibit.choices:
        if choice.offered(chosen):
            assert choice.first in choice.options or choice.kind == "number"
            chosen[choice.name] = choice.first
    settings, ships = exhibit.settings(chosen), shipped_result(name).settings
    signature(exhibit.train).bind(**settings, seed=0, watch=results.unwatched)
    assert settings == {key: ships[key] for key in settings}


def test_a_system_that_is_not_there_is_refused_by_name():
    with pytest.raises(MoevizError, match="local-experts"):
        systems.train("perceptron")
    with pytest.raises(MoevizError, match="counts"):
        next(check_claims(["perceptron"]))


def test_the_checks_of_two_systems_come_one_after_the_other_in_the_order_of_the_table():
    frames = list(check_claims(["counts", "local-experts"], quick=True))
    assert [frame["system"].unique().tolist() for frame in frames] == [["local-experts"], ["counts"]]
    assert all(frame["passed"].all() for frame in frames)


def test_a_system_whose_library_is_missing_fails_with_the_sentence_and_the_others_go_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "hmmlearn.hmm", None)
    frame = claims_of("hmm-experts", quick=True)
    assert not frame["passed"].any() and frame["remark"].str.contains('hmmlearn, .*pip install "moeviz').all()


def test_every_system_is_checked_and_has_its_page():
    assert set(SYSTEMS) < set(WITH_CHECKS)
    assert [row.title for row in SYSTEMS.values()] == [title for title in GALLERY if title != "Mixtral"]


def test_the_menu_brings_nothing_that_only_trains():
    heavy = "{'torch', 'transformers', 'sklearn', 'scipy', 'hmmlearn'} & sys.modules.keys()"
    script = f"import sys, moeviz_app.views.menu; sys.exit(str(sorted({heavy})) if {heavy} else 0)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_mixtral_is_counted_to_the_last_parameter_and_the_embedded_model_behaves_like_a_small_one():
    frame = claims_of("mixtral")
    assert frame["passed"].all(), frame[~frame["passed"]].to_string()
    assert 46_702_792_704 in frame["ours"].tolist()


def test_what_was_published_of_mixtral_s_routing_is_hardly_apart_by_kind_and_repeats_more_in_depth():
    """Bits between code and books as computed once from the same counts by other means."""
    assert [published_divergence(layer) for layer in (0, 7, 15)] == pytest.approx([0.0033, 0.0049, 0.0136], abs=5e-5)
    load = published_load(15)
    assert load.groupby("label")["share"].sum().to_numpy() == pytest.approx(1)
    assert load.groupby("label")["assignments"].sum().unique().tolist() == [2 * 208_896]
    first = published_repetition().groupby(["choice", "layer"])["share"].mean()
    assert first["first choice"].tolist() == pytest.approx([0.140875, 0.264, 0.22675])
    assert published_repetition().groupby("choice")["chance"].first().tolist() == pytest.approx(
        [0.125, 0.4643], abs=1e-4
    )


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_trace_of_a_system_is_offered_pages_of_the_menu_that_have_something_to_draw(name):
    trace = shipped_trace(name)
    offered = pages_for(trace)
    assert set(offered) <= set(PAGES) and "Tokens" in offered
    soft = name in ("local-experts", "hierarchical", "deep-mixture", "hmm-experts")
    assert goes_to_all_experts(trace) == soft and ("Load" in offered) != soft
    assert ("Locality" in offered) == (name in ("sparsely-gated", "switch", "dense")), "samples have no neighbours"


def test_questions_are_asked_in_the_words_of_the_system():
    question = "Do tokens of a kind of text share experts in this layer?"
    asked = {
        name: in_words_of(shipped_trace(name).model, question) for name in ("svm-experts", "hmm-experts", "switch")
    }
    assert asked == {
        "svm-experts": "Do digits of a digit share experts in this iteration?",
        "hmm-experts": "Do utterances of a speaker share experts in this time step?",
        "switch": "Do words of a kind of word share experts in this layer?",
    }
    hostile = replace(shipped_trace("switch").model, item_kind="<b>", label_kind="![x](http://x)")
    assert in_words_of(hostile, question) == question


def test_a_mixtral_of_another_size_fails_its_claims(monkeypatch):
    name = "mistralai/Mixtral-8x7B-v0.1"
    monkeypatch.setattr(
        mixtral, "model_facts", lambda _: import_module("moeviz.capture.models.load").model_facts("embedded")
    )
    monkeypatch.setattr(mixtral, "PRINTED", {name: mixtral.PRINTED[name]})
    assert not any(claim.passed for claim in mixtral.counts())


def test_the_calculator_begins_with_what_the_papers_print():
    counts = [count(**sizes) for count, sizes in readings().values()]
    assert counts == published_counts()["ours"].tolist()


def test_every_sentence_of_the_article_has_a_page_and_every_correction_a_source():
    assert {point.page for point in POINTS} <= set(PAGES)
    assert {"Local experts", "SVM experts", "HMM experts", "Deep mixture", "Switch"} <= {point.page for point in POINTS}
    assert corrections().shape == (len(CORRECTIONS), 3) and (corrections() != "").all(axis=None)
    for point in POINTS:
        assert point.look.endswith(".")


def test_a_check_whose_process_ends_badly_says_so_and_hides_no_other(monkeypatch):
    monkeypatch.setitem(WITH_CHECKS, "nothing", "nothing")
    counts, nothing = check_claims(["nothing", "counts"])
    assert counts["passed"].all() and set(counts["system"]) == {"counts"}
    assert nothing[["system", "passed"]].to_numpy().tolist() == [["nothing", False]]
    assert "history_checks nothing" in nothing["remark"][0]
