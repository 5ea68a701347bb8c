"""What `moeviz` and its packages show to Tab, and what they answer to a wrong call."""

import json
import os
import subprocess
import sys

import pytest
from transformers import Trainer, TrainingArguments

import moeviz
from moeviz.charts import REPORTED
from moeviz.errors import InvalidPrompt, MoevizError
from moeviz.labelled_texts import texts_of_files
from moeviz.training import watch

PACKAGES = ("analyses", "corpus", "formats", "metrics", "report", "serving", "training")


def test_tab_shows_every_name_and_package_that_may_be_used():
    assert {*moeviz.__all__, *PACKAGES, "charts", "history", "embedded", "examples"} <= {*dir(moeviz)}
    for name in PACKAGES:
        package = getattr(moeviz, name)
        shown = dir(package)
        assert {*package.__all__} == {*shown}
        assert all(hasattr(package, one) for one in shown)


def test_what_a_chart_measures_is_a_function_of_its_package():
    measures = {chart.measure for charts in REPORTED.values() for chart in charts}
    of_packages = [measure for measure in measures if measure.__module__.split(".")[1] in ("metrics", "serving")]
    known = {name for package in (moeviz.metrics, moeviz.serving) for name in package._homes}
    lacking = {measure.__name__ for measure in of_packages} - known
    assert len(of_packages) > 30 and lacking <= {"hit_rates", "memory_on_cards", "what_fits"}  # those of a budget


@pytest.mark.parametrize("first", ["import moeviz", "import moeviz.metrics.balance, moeviz.metrics.locality"])
def test_metrics_are_called_by_their_package_whatever_was_imported_before(first):
    code = f"{first}; from moeviz.testing import sample_trace; import moeviz; trace = sample_trace()"
    code += "; print(len(moeviz.metrics.balance(trace)), len(moeviz.metrics.locality(trace)) > 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(moeviz.testing.sample_trace().model.layers)), "True"]


def test_a_name_that_is_not_there_is_asked_about():
    for module, name in ((moeviz, "what_iff"), (moeviz.metrics, "balanc")):
        with pytest.raises(AttributeError, match=r"Did you mean .*\?"):
            getattr(module, name)


def test_wrong_calls_get_the_right_one():
    """In a process of its own: in the tests' process, the check of types speaks first."""
    code = """
import moeviz
model = moeviz.load_model()
assert len(repr(model)) < 120, repr(model)
for call in (moeviz.trace, moeviz.occlude):
    try:
        call("Il fait froid", model)
    except moeviz.CaptureError as error:
        print("model" in str(error) and "text" in str(error))
for wrong in (moeviz.Mute({3: 1}), moeviz.Mute(3, 1), moeviz.Force({3: 1})):
    try:
        moeviz.what_if(model, "12 + 7", wrong)
    except moeviz.CaptureError as error:
        print(type(wrong).__name__ + "({3: (" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 5


def test_next_tokens_have_the_ids_of_tokens():
    model = moeviz.load_model()
    found = moeviz.trace(model, "Il fait froid", next_tokens=True).next_tokens
    assert [model.tokenizer.decode([one]) for one in found.ids[-1]] == [text for text, _ in found.after(-1)]
    assert found.lens_ids.shape == found.lens_p.shape


def test_what_if_names_the_next_tokens_by_id_and_text():
    model = moeviz.load_model()
    effect = moeviz.what_if(model, "12 + 7", moeviz.Mute({3: (1,)})).effect
    assert [model.tokenizer.decode([one]) for one in effect["next_token"]] == effect["next_text"].tolist()


def test_a_probe_without_a_tokenizer_is_refused_at_once(tmp_path):
    trainer = Trainer(moeviz.load_model().model, TrainingArguments(str(tmp_path), report_to=[]))
    with pytest.raises(MoevizError, match="tokenizer="):
        watch(trainer, probe=[("French", "Il fait froid.")])
    watch(trainer, probe=[("French", "Il fait froid.")], tokenizer=moeviz.load_model().tokenizer)


@pytest.mark.parametrize(("first", "policy"), [("", "PASSIVE"), ("import torch; ", None)])
def test_torch_s_threads_sleep_while_they_wait_if_moeviz_comes_first(first, policy):
    code = f"{first}import moeviz, os; print(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(policy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'id,text,label\n1,"Il fait, froid",fr\n2,Kalt,de\n'),
        ("t.csv", "label;text\nfr;Il fait, froid\nde;Kalt\n"),
        ("t.tsv", "text\tlabel\nIl fait, froid\tfr\nKalt\tde\n"),
        ("t.jsonl", "\n".join(json.dumps({"text": text, "kind": kind}) for text, kind in
                              (("Il fait, froid", "fr"), ("Kalt", "de")))),
    ],
)  # fmt: skip
def test_texts_are_read_from_tables_and_lines(name, content):
    assert texts_of_files([(name, content.encode())]) == [("fr", "Il fait, froid"), ("de", "Kalt")]


def test_a_table_without_texts_names_its_columns():
    with pytest.raises(InvalidPrompt, match="a and b"):
        texts_of_files([("t.csv", b"a,b\n1,2\n")])
    assert texts_of_files([("t.csv", b"text\nx\n")]) == [("t", "x")]
