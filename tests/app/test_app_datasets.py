"""Datasets in the app: which may be opened by whom, what their pages show, and what is said where they are damaged."""

import json
import shutil
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from app_pages import HOSTILE, MAIN, SAFE_ELEMENTS, SECONDS, drawn, pictures, sentences, visit_of
from small_corpus import texts_of
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
from waiting import until

from moeviz.charts import TOPICS
from moeviz.cli import app as served_app
from moeviz.corpus import analyses
from moeviz.corpus.analyses import FROM_TABLES, answer_of
from moeviz.corpus.rows import sample_of_dataset
from moeviz.errors import InvalidTrace
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.dataset.opening import read_dataset
from moeviz.metrics.balance import balance_sentence, load_beside_luck
from moeviz.metrics.load import counts_summary, expert_load
from moeviz.published import published_counts
from moeviz.training.reading import EXAMPLE_FOLDER
from moeviz_app import settings
from moeviz_app.server import identity
from moeviz_app.session import session
from moeviz_app.widgets import answers

pytestmark = pytest.mark.usefixtures("box_of_widgets")
NAME = "my corpus"
TOGETHER = {topic: pair for pair in (("Load", "Coverage"), ("Flow", "Layers")) for topic in pair}  # on one page
TOPIC_PAGES = {topic: topic.lower().replace(" ", "-") for topic in TOPICS} | {"Flow": "layers", "Coverage": "load"}
WITHOUT = ("Confidence", "Losses", "Parameters")  # topics that need what no dataset has: an example is shown instead


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(answers, "AT_ONCE", float(SECONDS))  # pages wait for all of their answers
    answers.forget()
    yield
    answers.forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of three shards, with labels."""
    write_dataset(texts_of(), tmp_path / NAME, shard_tokens=120)
    return tmp_path / NAME


@pytest.fixture
def serving(monkeypatch) -> Callable:
    """A fresh visitor at a page of the app as `moeviz app FOLDER …` serves it."""

    def serve(*paths: Path, at: str = "many-texts", to: str = settings.PRIVATE, **query: str) -> AppTest:
        files = tuple(map(str, paths))
        monkeypatch.setattr(identity, "is_local", lambda: True)  # which a harness without a browser cannot tell
        monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, files=files, serve=to))
        return go_to(AppTest.from_file(str(MAIN), default_timeout=SECONDS), at, **query)

    return serve


def go_to(app: AppTest, path: str, **query: str) -> AppTest:
    """The same visitor on another page."""
    app._page_hash = app._finished_page_script_hash = calc_hash(path)
    app.query_params.clear()
    app.query_params.update(query)
    return faultless(app.run())


def faultless(app: AppTest) -> AppTest:
    assert not app.exception and "Being read …" not in sentences(app)
    return app


def press(app: AppTest, label: str) -> AppTest:
    (button,) = (button for button in app.button if button.label == label)
    return faultless(button.click().run())


def subjects_of(app: AppTest) -> list[str]:
    """What the subject bar offers, as people read it."""
    return [line.partition(" — ")[0] for line in app.selectbox(key="subject").options]


def chosen(app: AppTest) -> str:
    return app.selectbox(key="subject").value


def title(app: AppTest) -> str:
    return app.title[0].value


def damaged(folder: Path, file: str = "load.parquet", shard: int = 1) -> Path:
    """Of the right size, and other bytes."""
    place = folder / f"shard-{shard:06}" / file
    place.write_bytes(place.read_bytes()[::-1])
    return folder


def test_it_opens_on_the_page_corpus_with_the_numbers_of_the_trace(serving, folder):
    app = serving(folder, at="")
    assert title(app) == "Many texts" and pictures(app) == 5
    assert "400 tokens in 10 texts · sample, 4 layers × 8 experts, 2 per token" in said_of(app)
    assert counts_summary(expert_load(texts_of())) in sentences(app)
    assert visit_of(app).address == {"dataset": NAME, "layer": "2"}


@pytest.mark.parametrize("topic", WITHOUT[:2])
def test_what_no_dataset_has_is_shown_of_an_example_and_the_page_says_so(serving, folder, topic):
    app = serving(folder, at=TOPIC_PAGES[topic], dataset=NAME)
    assert chosen(app) == f"dataset {NAME}" and "Shown instead: " in sentences(app) and pictures(app)
    press(app, "Look at this one everywhere")
    assert "Shown instead: " not in sentences(app) and chosen(app) != f"dataset {NAME}"


@pytest.mark.parametrize("topic", ["Load", "Specialization", "Flow", "Placement"])
def test_topics_draw_what_a_dataset_can_answer_and_name_the_rest_once(serving, folder, topic):
    app = serving(folder, at=TOPIC_PAGES[topic], dataset=NAME)
    charts = [chart for each in TOGETHER.get(topic, (topic,)) for chart in TOPICS[each]]
    known = [chart for chart in charts if answer_of(chart.measure)]
    others = [chart.question for chart in charts if not answer_of(chart.measure)]
    assert pictures(app) == len(known) + (topic in TOGETHER["Load"])
    said = sentences(app)
    assert said.count("these questions take a trace") == bool(others)
    assert all(said.count(question) == 1 for question in others)


def test_balance_answers_for_a_dataset_as_for_its_trace_and_a_link_to_counts_leaves_it(serving, folder):
    app = serving(folder, at="balance", dataset=NAME)
    assert pictures(app) == 1 and balance_sentence(load_beside_luck(texts_of())) in sentences(app)
    assert visit_of(app).address["dataset"] == NAME
    app = go_to(app, "balance", subject="mixtral-8x7b")
    assert balance_sentence(load_beside_luck(published_counts())) in sentences(app)
    assert visit_of(app).address == {"subject": "mixtral-8x7b", "group": "0", "counted_layer": "15"}


def test_a_layer_is_chosen_and_in_the_address(serving, folder):
    app = serving(folder, at="co-activation", dataset=NAME, layer="3")
    assert app.select_slider(key=session.CORPUS_LAYER).value == 3
    faultless(app.select_slider(key=session.CORPUS_LAYER).set_value(1).run())
    assert visit_of(app).address == {"dataset": NAME, "layer": "1"}
    assert serving(folder, at="layers", dataset=NAME, layer="99").select_slider(key=session.CORPUS_LAYER).value == 2


def test_the_trace_comes_back_and_a_run_takes_the_place_of_the_dataset(serving, folder):
    app = serving(folder, at="load", dataset=NAME)
    assert chosen(app) == f"dataset {NAME}"
    app.selectbox(key="subject").set_value("mixed").run()
    assert not app.exception and chosen(app) == "mixed" and pictures(app) == len(TOPICS["Load"] + TOPICS["Coverage"])
    app = serving(folder, at="load", dataset=NAME)
    go_to(app, "load", prompt="One day", model="embedded")
    assert chosen(app) == "trace"


def test_an_expert_has_a_page_with_its_tokens_in_their_text(serving, folder):
    busiest = int(texts_of().counts().assignments[0, 1].argmax())
    app = serving(folder, at="expert", dataset=NAME, layer="1", expert=str(busiest))
    assert title(app) == f"Layer 1, expert {busiest}" and pictures(app) >= 5
    asked = "Where are the tokens whose first choice it is, a layer before and a layer after?"
    assert asked in [heading.value for heading in app.subheader]
    assert "how much weight it has, and which experts of other layers" in sentences(app)
    lines = drawn(app, "contexts")
    assert len(lines["lines"]) == 20 and {line["label"] for line in lines["lines"]} <= {"prose", "code"}
    assert "seed 0" in "\n".join(text.value for text in app.markdown).replace("\\", "")
    press(app, "Draw others")
    assert drawn(app, "contexts")["lines"] != lines["lines"] and app.query_params["sample"] in ("1", ["1"])
    press(app, "expert ›")
    assert title(app) == f"Layer 1, expert {(busiest + 1) % 8}"


def test_without_text_the_page_of_an_expert_says_so_and_draws_the_rest(serving, tmp_path):
    write_dataset(texts_of(), tmp_path / NAME, "none", text=False)
    app = serving(tmp_path / NAME, at="expert", dataset=NAME, layer="1", expert="2")
    assert "Contexts need the tokens' texts, and this dataset was written without them." in sentences(app)
    assert "Top tokens need the tokens' texts" in sentences(app) and pictures(app) == 4
    assert "It is the first choice of no token that has one in a layer before or after." in sentences(app)


def test_without_labels_what_needs_them_is_said_once(serving, tmp_path):
    trace = texts_of()
    write_dataset(replace(trace, tokens=trace.tokens.drop(columns="label")), tmp_path / NAME)
    assert pictures(serving(tmp_path / NAME)) == 3
    app = serving(tmp_path / NAME, at="specialization", dataset=NAME)
    assert sentences(app).count("this dataset has none") == 1 and pictures(app) == 1


# Who may open what


@pytest.mark.parametrize("to", [settings.TEAM, settings.PUBLIC])
def test_for_others_the_listed_folders_are_there_and_no_path_can_be_typed(serving, folder, tmp_path, to):
    write_dataset(texts_of(), tmp_path / "secret")
    app = serving(folder, to=to)
    assert f"dataset {NAME}" in subjects_of(app)
    assert not [box for box in app.text_input if box.key == "folder of a dataset"]
    assert str(tmp_path) not in str(app.main)
    app = serving(to=to)
    assert not [name for name in subjects_of(app) if name.startswith("dataset ")]


@pytest.mark.parametrize(
    ("page", "asked", "to"),
    [
        ("many-texts", "name", settings.PUBLIC),
        ("load", "path", settings.PUBLIC),
        ("expert", "climbing", settings.TEAM),
        ("expert", "path", settings.PRIVATE),
    ],
)
def test_a_link_never_opens_a_folder_that_is_not_listed(serving, folder, tmp_path, page, asked, to):
    write_dataset(texts_of(tokens=200), tmp_path / "secret")
    link = {"name": "secret", "path": str(tmp_path / "secret"), "climbing": f"{NAME}/../secret"}[asked]
    app = serving(folder, at=page, to=to, dataset=link, layer="1", expert="1")
    assert "which is not open here" in sentences(app) and "200 tokens" not in sentences(app)
    assert not visit_of(app).datasets and visit_of(app).subject in (None, f"dataset {NAME}")
    assert "which is not open here" in sentences(app.run()), "also when the page is drawn again"
    go_to(app, page, dataset=NAME, layer="1", expert="1")
    assert visit_of(app).subject == f"dataset {NAME}" and "400 tokens" in said_of(app)
    assert "which is not open here" not in sentences(app)


def test_the_machines_own_user_opens_a_folder_by_its_path(serving, folder):
    app = serving()
    app.text_input(key="folder of a dataset").set_value(str(folder)).run()
    faultless(app)
    assert chosen(app) == f"dataset {NAME}" and "400 tokens" in said_of(app)
    assert visit_of(app).address == {"dataset": NAME, "layer": "2"}


@pytest.mark.parametrize("typed", ["/nowhere", "a\0b", "."])
def test_a_path_without_a_dataset_is_refused(serving, typed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    app = serving()
    app.text_input(key="folder of a dataset").set_value(typed).run()
    assert sentences(app).count("is not a folder") == 1
    press(app, "Open")
    assert "is not a folder" in sentences(app) and not visit_of(app).datasets


@pytest.mark.parametrize("to", [settings.TEAM, settings.PUBLIC])
def test_even_a_forged_message_opens_no_path_for_others(serving, folder, to):
    """The control: the guard is where the folder is opened, and not only in the box that is not there."""

    def script(path: str) -> None:
        from moeviz_app.session import datasets
        from moeviz_app.widgets.messages import explained

        with explained():
            datasets.open_path(path)

    serving(to=to)
    app = AppTest.from_function(script, default_timeout=SECONDS, args=(str(folder),)).run()
    assert "cannot be opened from here" in sentences(app) and not visit_of(app).datasets
    serving(to=settings.PRIVATE)
    app = AppTest.from_function(script, default_timeout=SECONDS, args=(str(folder),)).run()
    assert visit_of(app).datasets == {NAME: str(folder)}


# What is damaged, changed or hostile


@pytest.mark.parametrize("page", ["many-texts", "expert"])
def test_a_damaged_shard_is_named_and_the_rest_is_read_if_asked_for(serving, folder, page):
    app = serving(damaged(folder), at=page, dataset=NAME, layer="1", expert="2")
    assert sentences(app).count("shard-000001 is damaged: load.parquet is not what was written") == 1
    assert str(folder.parent) not in sentences(app)
    press(app, "Read the rest")
    assert "Left out: shard-000001 is damaged." in sentences(app) and pictures(app) >= 4
    assert "280 tokens" in said_of(app)


def test_a_missing_shard_is_named_before_anything_is_read(serving, folder):
    shutil.rmtree(folder / "shard-000001")
    app = serving(folder)
    assert "shard-000001 is missing. The rest is read if you ask for it." in sentences(app) and not pictures(app)
    press(app, "Read the rest")
    assert "Left out: shard-000001 is missing." in sentences(app) and pictures(app) == 5


def test_a_dataset_that_is_not_finished_is_read_as_far_as_it_is(serving, folder):
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "shard-000002")
    app = serving(folder)
    assert "shard-000002 is not there yet." in sentences(app)
    assert pictures(press(app, "Read the rest")) == 5


def test_a_dataset_that_is_written_anew_is_read_anew(serving, folder):
    app = serving(folder)
    assert "400 tokens" in said_of(app)
    shutil.rmtree(folder)
    write_dataset(texts_of(tokens=200), folder)
    assert "200 tokens" in said_of(faultless(app.run()))
    assert counts_summary(expert_load(texts_of(tokens=200))) in sentences(app)


def test_a_dataset_that_is_gone_is_said_without_its_path(serving, folder):
    app = serving(folder)
    shutil.rmtree(folder)
    app = faultless(app.run())
    assert title(app) == "Many texts" and str(folder.parent) not in str(app.main)


def test_names_of_strangers_are_plain_text(serving, folder):
    bad, manifest = HOSTILE[2], json.loads((folder / "manifest.json").read_text())
    manifest["model"]["name"] = manifest["model"]["backend"] = manifest["model"]["caution"] = bad
    (folder / "manifest.json").write_text(json.dumps(manifest))
    app = serving(folder)
    assert bad in sentences(app)
    assert {element.type for element in app.main if bad in str(getattr(element, "value", ""))} <= SAFE_ELEMENTS


def test_an_empty_dataset_and_one_layer_are_no_errors(serving, tmp_path):
    write_dataset(texts_of().select(tokens=slice(0, 0)), tmp_path / "empty")
    assert "has no tokens" in sentences(serving(tmp_path / "empty"))
    write_dataset(texts_of().select(layers=[2]), tmp_path / "one")
    for page in ("many-texts", "load", "layers", "co-activation", "expert"):
        app = serving(tmp_path / "one", at=page, dataset="one", expert="1")
        assert ("follow each other" in sentences(app)) == (page == "layers")


def test_an_answer_is_worked_out_once_for_everybody(serving, folder, monkeypatch):
    asked = []
    known = analyses.expert_load
    monkeypatch.setitem(FROM_TABLES, "expert_load", lambda *given: asked.append(given) or known(*given))
    serving(folder, at="load", dataset=NAME)
    first = len(asked)
    serving(folder, at="load", dataset=NAME)
    assert first == len(asked) == 2, "all layers, and the chosen one"


def test_an_answer_that_comes_while_the_page_is_drawn_is_not_waited_for_in_vain(serving, folder, monkeypatch):
    """The page has said that it is on its way, and nobody looks again once the work is done."""
    monkeypatch.setattr(answers, "AT_ONCE", -1.0)
    begin = answers._begin

    def begin_and_end(missing):
        job = begin(missing)
        until(lambda: job.work.found is not None)
        monkeypatch.setattr(answers.Answers, "_within", lambda self, key: None)  # as if it came just after
        monkeypatch.setattr(answers, "_begin", begin)
        return job

    within, watch = answers.Answers._within, answers.Answers.watch

    def watched(self):
        monkeypatch.setattr(answers.Answers, "_within", within)
        watch(self)

    monkeypatch.setattr(answers, "_begin", begin_and_end)
    monkeypatch.setattr(answers.Answers, "watch", watched)
    app = serving(folder, at="load", dataset=NAME)
    assert "Being read …" not in sentences(app) and pictures(app) == 7


def test_the_command_reads_a_dataset_or_a_run_before_it_serves(monkeypatch, folder, tmp_path):
    served = []
    monkeypatch.setattr(served_app.runpy, "run_module", lambda *_, **__: served.append(True))
    monkeypatch.setattr(served_app.sys, "argv", [])
    for name in (served_app.FILES, served_app.WAY, served_app.UVICORN_TRUSTS):
        monkeypatch.setenv(name, "")
    served_app.serve_app(8501, browser=False, files=[str(folder)])
    served_app.serve_app(8501, browser=False, files=[str(damaged(folder))])
    served_app.serve_app(8501, browser=False, files=[str(EXAMPLE_FOLDER / "aux-on")])
    assert len(served) == 3 and read_dataset(folder)
    (folder / "manifest.json").write_text("{}")
    (tmp_path / "routing.jsonl").write_text("{}\n")
    for path, named in ((folder, r"manifest\.json"), (tmp_path, r"routing\.jsonl")):
        with pytest.raises(InvalidTrace, match=named):
            served_app.serve_app(8501, browser=False, files=[str(path)])
    assert len(served) == 3


def test_the_experts_of_a_dataset_are_seen_in_a_sample_of_its_texts(serving, folder):
    app = serving(folder, at="experts", dataset=NAME)
    assert title(app) == "What the 32 experts do" and "400 tokens in 10 texts · sample" in said_of(app)
    data, trace = drawn(app, "atlas"), texts_of()
    assert data["kinds"] == ["prose", "code"] and data["query"] == {"dataset": NAME}
    counts = np.frombuffer(b64decode(data["kindCounts"]), np.uint16).reshape(4, 8, 2)
    for label, kind in (("prose", 0), ("code", 1)):
        rows = (trace.tokens["label"] == label).to_numpy()
        own = [[(layer[rows] == expert).any(-1).sum() for expert in range(8)] for layer in trace.experts]
        assert counts[..., kind].tolist() == own
    assert visit_of(app).address["dataset"] == NAME
    page = serving(folder, at="experts", dataset="another")
    assert "not open here" in sentences(page)


def said_of(app: AppTest) -> str:
    return "\n".join(text.value for text in app.markdown).replace("\\", "")


def test_a_sample_of_a_dataset_is_whole_texts_in_turn_of_each_kind_and_as_they_were_written(folder, monkeypatch):
    dataset, trace = read_dataset(folder), texts_of()
    monkeypatch.setattr("moeviz.metrics.expert_names.MOST_TOKENS", 170)  # four texts of forty tokens
    part = sample_of_dataset(dataset)
    labels = part.tokens.groupby("sequence")["label"].first()
    assert sorted(labels) == ["code", "code", "prose", "prose"]
    rows = trace.tokens["sequence"].isin(labels.index).to_numpy()
    assert np.array_equal(part.experts, trace.experts[:, rows]) and np.array_equal(part.weights, trace.weights[:, rows])
    assert part.tokens["text"].tolist() == trace.tokens["text"][rows].tolist()
    monkeypatch.setattr("moeviz.metrics.expert_names.MOST_TOKENS", 20)
    with pytest.raises(InvalidTrace, match="20 tokens"):
        sample_of_dataset(dataset)
