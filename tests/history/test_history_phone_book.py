"""The phone book: its layer, what it teaches at a small size, the runs that ship, and the panel of the story."""

import threading
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from app_pages import SECONDS, drawn, sentences
from streamlit.testing.v1 import AppTest
from waiting import PAUSE, until

from benchmarks.phone_book import MEASURED
from moeviz.errors import MoevizError
from moeviz.history.phone_book import model, runs
from moeviz.history.phone_book.model import facts_of, train
from moeviz.history.phone_book.runs import MANY, NETWORKS, RECORDED, book_means, book_table, shipped_run
from moeviz_app.jobs.fair_queue import Busy
from moeviz_app.views.history import story as page
from moeviz_app.widgets.components.history import BACK, STOP, packed_run, wanted

SMALL = {"facts": 5_000, "steps": 120}


class Enough(Exception):
    """Raised by who watches."""


def test_facts_are_pairs_of_their_own_and_a_rule_is_eight_p_plus_q():
    book, rule, other = facts_of("book", 10, 0), facts_of("rule", 10, 0), facts_of("book", 10, 1)
    assert len(book.names.unique(dim=0)) == 256**2 and book.numbers.unique().tolist() == list(range(64))
    assert torch.equal(book.names, rule.names) and not torch.equal(book.names, other.names)
    table = torch.empty(256, 256, dtype=torch.int64)
    table[rule.names[:, 0], rule.names[:, 1]] = rule.numbers
    p, q = table // 8, table % 8
    assert (p == p[:, :1]).all() and (q == q[:1]).all()
    assert not (book.numbers == rule.numbers).all()


def test_experts_hold_more_than_the_dense_network_unless_their_routes_are_redrawn():
    dense, sparse = train(experts=2, **SMALL), train(experts=16, **SMALL)
    redrawn = train(experts=16, router="redrawn", **SMALL)
    assert redrawn.remembered[-1] < dense.remembered[-1] < sparse.remembered[-1] - 0.2
    assert dense.at_work == sparse.at_work == dense.expert_parameters == sparse.expert_parameters // 8
    assert sparse.recorded == (0, 100, 120) and sparse.right.shape == (3, 384) and sparse.experts.shape == (3, 384, 2)
    assert dense.experts.shape == (3, 384, 0)
    on_wall = sparse.right[-1][sparse.seen].mean()
    assert abs(on_wall - sparse.remembered[-1]) < 0.1, "the wall is a part of the book"
    assert (sparse.right[-1] == (sparse.answers == sparse.numbers)).all()


def test_the_same_arguments_give_the_same_run_and_another_seed_of_the_same_book_another():
    threads = torch.get_num_threads()
    short = {"task": "rule", "experts": 4, "facts": 500, "steps": 30}
    torch.set_num_threads(2)
    try:
        first = train(**short)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    again, other = train(**short), train(**short, seed=1, book=0)
    assert (first.unseen == again.unseen).all() and (first.right == again.right).all()
    assert (first.numbers == other.numbers).all() and (first.seen == other.seen).all()
    assert not (first.right == other.right).all()


@pytest.mark.parametrize(
    "wrong", [{"task": "poem"}, {"router": "dice"}, {"experts": 65}, {"top_k": 3, "experts": 2}, {"facts": 62_000}]
)
def test_what_makes_no_network_is_refused(wrong):
    with pytest.raises(MoevizError, match="Choose"):
        train(**wrong)


@pytest.mark.parametrize("name", ["book-2", "rule-32"])
def test_what_ships_is_what_the_code_makes(name):
    """Its first hundred steps: where sums are rounded otherwise, a longer training goes its own way."""
    seen = []

    def watch(run: runs.BookRun) -> None:
        seen.append(run)
        if len(seen) == 2:
            raise Enough

    task, experts = RECORDED[name]
    with pytest.raises(Enough):
        train(task, experts, watch=watch)
    ours, ships = seen[-1], shipped_run(name)
    assert ours.recorded == ships.recorded[:2] and ours.settings == ships.settings
    assert (ours.numbers == ships.numbers).all() and (ours.seen == ships.seen).all()
    for share in ("remembered", "unseen"):
        assert getattr(ours, share) == pytest.approx(getattr(ships, share)[:2], abs=0.01)
    assert (ours.right == ships.right[:2]).mean() > 0.95


def test_the_table_has_every_run_that_the_command_makes_and_the_wall_s_runs_are_its_seed_0():
    table = book_table()
    wanted_rows = [(part, name, seed) for part, name, _, seeds in MEASURED for seed in seeds]
    assert list(table[["part", "name", "seed"]].itertuples(index=False, name=None)) == wanted_rows
    for name, (task, experts) in RECORDED.items():
        run = shipped_run(name)
        (row,) = table[
            (table["part"] == task)
            & (table["experts"] == experts)
            & ((table["top_k"] < experts) | (experts == 2))
            & (table["seed"] == 0)
            & (table["facts"] == runs.TASKS[task])
            & (table["learning_rate"] == model.LEARNING_RATE)
        ].itertuples()
        assert (row.remembered, row.unseen) == pytest.approx((run.remembered[-1], run.unseen[-1]), rel=1e-4)
        assert run.recorded[-1] == run.settings["steps"] == 3000 and run.at_work == row.at_work == 9_312
    kept = table.drop(columns=["remembered", "unseen", "seed"]).dropna()
    assert (kept["at_work"] == kept["expert_parameters"] * kept["top_k"] / kept["experts"]).all()


def test_what_the_panel_says_is_what_the_table_has():
    """The figures stand in the words by themselves; these are the sentences."""
    of = book_means(book_table()).set_index(["part", "name", "facts"])["share"]
    book, controls = of["book"].droplevel("facts"), of["controls"].droplevel("facts")
    assert book["dense"] < 0.2 < 0.3 < book["8 experts"] < controls["16 experts"] < 0.95 < book["32 experts"]
    others = controls[controls.index.str.startswith("dense, ") & ~controls.index.str.contains("large")]
    assert len(others) == 3 and (others < book["8 experts"]).all(), "no other step size or length does it"
    for experts in (8, 32):
        assert controls[f"dense, as large as {experts} experts"] > book[f"{experts} experts"] - 0.02
        routes = controls[controls.index.str.startswith(f"{experts} experts, ")]
        anew = routes[routes.index.str.contains("anew")].item()
        assert anew < book["dense"] < book[f"{experts} experts"] / 2 < routes.drop(routes.idxmin()).min()
    few, many = (of["rule"].xs(facts, level="facts") for facts in (runs.TASKS["rule"], MANY))
    assert few["dense"] > few["8 experts"] > few["32 experts"] + 0.3 and few["32 experts"] < 0.4 and few["dense"] > 0.85
    assert many.min() > 0.995
    assert few["dense, half the step size"] > few["32 experts, half the step size"] + 0.3
    assert of["decoder"].droplevel("facts")["16 experts"] > of["decoder"].droplevel("facts")["dense"] + 0.3


def test_seeds_of_one_run_make_one_mean():
    rows = [
        ("rule", "dense", "rule", 100, 2, 2, 0, 1.0, 0.5, 0.6),
        ("rule", "dense", "rule", 100, 2, 2, 1, 1.0, 0.7, 1),
    ]
    rows += [("book", "8 experts", "book", 100, 8, 2, 0, 0.4, 0.0, None)]
    rows += [("rule", "dense", "rule", 200, 2, 2, 0, 1.0, 0.9, 0.9)]
    names = ["part", "name", "task", "facts", "experts", "top_k", "seed", "remembered", "unseen", "best"]
    found = book_means(pd.DataFrame(rows, columns=names))
    assert found["share"].tolist() == pytest.approx([0.6, 0.4, 0.9]) and found["seeds"].tolist() == [2, 1, 1]
    assert found["best"].tolist() == pytest.approx([0.8, np.nan, 0.9], nan_ok=True)
    assert (found["lowest"][0], found["highest"][0]) == (0.5, 0.7) and found["sparse"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    "told",
    [
        None,
        "book-2",
        {},
        {"teach": None},
        {"teach": 2},
        {"teach": ["book-2"]},
        {"teach": {"train": "book-2"}},
        {"teach": "book-64"},
        {"teach": "../book-2"},
        {"teach": "book-2\n"},
        {"look": "book-2"},
    ],
    ids=str,
)
def test_a_forged_message_trains_nothing(told):
    assert wanted(told, RECORDED) is None


def test_a_name_that_is_there_is_trained_and_stop_and_back_are_heard():
    assert [wanted({"teach": word}, RECORDED) for word in (*RECORDED, STOP, BACK)] == [*RECORDED, STOP, BACK]


def test_the_browser_gets_the_bits_of_a_run():
    run = shipped_run("book-8")
    packed = packed_run(run)

    def bytes_of(part: str) -> np.ndarray:
        return np.frombuffer(b64decode(packed[part]), np.uint8)

    assert (bytes_of("right").reshape(run.right.shape) == run.right).all() and packed["shares"][-1] < 1
    assert (bytes_of("chosen").reshape(run.experts.shape) == run.experts).all() and packed["steps"][-1] == packed[
        "last"
    ]
    assert packed_run(shipped_run("rule-2"))["shares"][-1] == pytest.approx(shipped_run("rule-2").unseen[-1], abs=1e-4)
    assert (len(runs.FIRST_NAMES.split()), len(runs.SECOND_NAMES.split())) == runs.WALL


@pytest.fixture
def panel(monkeypatch) -> AppTest:
    """A page with the panel. What stands in the session as `ask` is asked for, once, as by a press in a browser."""
    script = """
import streamlit as st
from moeviz_app.views.history import story as page
if (asked := st.session_state.pop("ask", None)) is not None:
    page.wanted = lambda *_: asked
    page._asked()
page.phone_book_panel()
"""
    monkeypatch.setattr(page, "wanted", page.wanted)  # the script's is gone after the test
    return AppTest.from_string(script, default_timeout=SECONDS)


def ask(app: AppTest, what: str) -> dict:
    """What the panel tells the browser once somebody has asked for that."""
    app.session_state["ask"] = what
    return now(app)


def now(app: AppTest) -> dict:
    app.run()
    assert not app.exception
    return drawn(app, page.WIRE)


def test_the_panel_shows_what_ships_with_its_figures_and_says_how_many_examples(panel):
    wire, data = now(panel), drawn(panel, page.BOOK)
    assert set(data["runs"]) == set(RECORDED) and (wire["name"], wire["going"]) == (None, False)
    of = book_means(book_table()).set_index(["part", "name", "facts"])["share"]
    for facts, name in ((2_000, "dense"), (2_000, "32 experts"), (10_000, "dense"), (10_000, "32 experts")):
        share = of["rule", name, facts]
        assert f"{facts:,}" in data["says"]["rule"] and (f"{100 * share:.1f}%" in data["says"]["rule"] or share == 1)
    for name in page.FIVE_ROWS:
        row = book_means(book_table()).set_index(["part", "name", "facts"]).loc[("rule", name, 2_000)]
        figures = [row["share"], *([row["best"]] if "as large" in name else [])]
        assert all(f"{100 * figure:.1f}%" in data["says"]["rule"] for figure in figures)
    bars = [bar for group in data["bars"] for bar in group["rows"]]
    assert len(bars) == len(of), "each run of the table is on the page"
    assert [bar["share"] for bar in bars[:3]] == [of["book"][name].item() for name in NETWORKS]
    assert [len(group["rows"]) for group in data["bars"][:2]] == [5, 5], "the control stands in both columns"


def test_a_network_is_trained_live_from_weights_of_its_own_is_stopped_and_what_ships_comes_back(panel, monkeypatch):
    """It tells of its first step, and goes on where the test lets it: on the same facts as what ships."""
    seeds, ended, goes_on = [], [], threading.Event()

    def short(task, experts, *, seed, book, watch):
        run = train(task, experts, facts=500, steps=10, seed=seed, book=book)
        seeds.append(seed)
        try:
            while not goes_on.wait(PAUSE):
                watch(replace(run, recorded=(0,)))
        finally:
            ended.append(seed)
        return run

    monkeypatch.setattr(model, "train", short)
    draws = iter((11, 22))  # of ten thousand drawn by chance, two are the same once
    monkeypatch.setattr(page, "randrange", lambda *_: next(draws))
    assert ask(panel, "book-2")["going"]
    told = until(lambda: ((told := now(panel))["run"] or not told["going"]) and told)
    assert (
        told["name"] == "book-2"
        and told["going"]
        and told["says"] == "step 0 of 10"
        and told["run"]["seed"] == seeds[0] > 0
    )
    assert told["run"]["numbers"] == drawn(panel, page.BOOK)["runs"]["book-2"]["numbers"]
    assert ask(panel, STOP)["name"] is None, "nothing is kept"
    until(lambda: ended)  # nobody lets it go on: it was cancelled
    goes_on.set()
    ask(panel, "rule-8")
    told = until(lambda: not (told := now(panel))["going"] and told)
    assert (told["name"], told["says"]) == ("rule-8", "") and told["run"]["seed"] == seeds[-1] != seeds[0]
    assert now(panel)["run"] == told["run"], "it stays"
    assert ask(panel, BACK)["name"] is None


def test_a_training_that_fails_or_may_not_begin_is_a_sentence_and_the_panel_stays(panel, monkeypatch):
    def fails(*_, **__):
        raise MoevizError("This machine has no more memory.")

    monkeypatch.setattr(model, "train", fails)
    if ask(panel, "book-8")["going"]:
        until(lambda: not now(panel)["going"])
    assert "no more memory" in sentences(panel) and not drawn(panel, page.WIRE)["name"]

    def refuse(dear: bool) -> None:
        raise Busy("This server already has 9 runs in line, and takes no more.")

    monkeypatch.setattr(page.model_service, "begin_run", refuse)
    assert ask(panel, "book-8")["name"] is None and "9 runs in line" in sentences(panel)
    assert drawn(panel, page.BOOK)["runs"]
