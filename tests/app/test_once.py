"""What is worked out once is what everybody is shown, and nothing of anybody's own."""

import gc
from weakref import ref

import pytest
from app_pages import drawn, first_page, is_near, pictures, run, visit_of

from moeviz.capture import trace as capturing
from moeviz.charts import NAMED
from moeviz.testing import sample_trace
from moeviz_app.jobs import recorded
from moeviz_app.jobs.recorded import cached_for_example, once_per_trace
from moeviz_app.jobs.result_cache import ResultCache
from moeviz_app.session import session
from moeviz_app.views import layout
from moeviz_app.views.explore import EXPLORER, OVERVIEW
from moeviz_app.widgets import near


@pytest.fixture
def calls(monkeypatch):
    """The calls of functions that are replaced by themselves."""
    found = []

    def watch(module, name):
        def watched(*given, **options):
            found.append(name)
            return own(*given, **options)

        own = getattr(module, name)
        monkeypatch.setattr(module, name, watched)
        return found

    return watch


def test_of_the_example_it_is_made_once_and_of_any_other_trace_each_time(trace):
    made = []

    def make():
        made.append(len(made))
        return made[-1]

    example, what = recorded.example(), object()
    assert (cached_for_example(example, what, make), cached_for_example(example, what, make)) == (0, 0)
    assert (cached_for_example(trace, what, make), cached_for_example(trace, what, make)) == (1, 2)


def test_a_picture_that_is_shown_again_has_not_changed():
    chart, example = NAMED["load_heatmap"], recorded.example()
    picture = chart.picture(chart.measure(example))
    before = picture.to_dict()
    from moeviz.charts.chart import clickable

    made = clickable(picture, ["layer", "expert"]).to_dict()
    assert picture.to_dict() == before
    assert made != before and clickable(picture, ["layer", "expert"]).to_dict() == made


@pytest.mark.usefixtures("box_of_widgets")
def test_a_run_is_one_script_of_the_page(calls):
    app = first_page()
    scripts = calls(layout, "draw_menu")
    run(app, "The sea was calm.")
    assert not app.exception
    assert len(scripts) == 1
    assert "calm" in "".join(drawn(app, EXPLORER)["texts"])


@pytest.mark.usefixtures("box_of_widgets")
def test_the_same_run_is_done_once_for_all_and_another_seed_is_another_run(calls):
    done = calls(capturing, "capture_growing")
    first, second = first_page(), first_page()
    for app in (first, second):
        app.slider(key=session.NEW_TOKENS).set_value(3)
        run(app, "One day")
    assert visit_of(first).trace is visit_of(second).trace is not None
    assert len(done) == 1
    second.number_input(key=session.SEED).set_value(1)
    run(second, "One day")
    assert len(done) == 2
    assert not visit_of(first).trace.equals(visit_of(second).trace)


def test_of_what_is_kept_the_longest_unasked_goes_first_and_the_newest_stays():
    kept = ResultCache(10)
    for name in "abc":
        kept.put(name, name, 4)
        kept.get("a")
    assert [kept.get(name) for name in "abc"] == ["a", None, "c"]
    kept.put("d", "d", 11)
    assert [kept.get(name) for name in "acd"] == [None, None, "d"]


@pytest.fixture
def far(monkeypatch):
    """Nothing is near the screen but what a browser says is."""
    monkeypatch.setattr(near, "is_near", is_near)


@pytest.mark.usefixtures("box_of_widgets", "far")
def test_what_is_below_the_fold_is_drawn_when_it_comes_near_and_waits_again_after_a_run():
    app = first_page()
    assert pictures(app) == 0
    assert all(chart.question in [title.value for title in app.subheader] for chart in OVERVIEW)
    visit_of(app).seen.names.add(OVERVIEW[1].key)
    app.run()
    assert pictures(app) == 1
    run(app, "Il fait froid.")
    assert pictures(app) == 0


def test_what_is_computed_of_a_trace_is_computed_once_and_keeps_no_trace():
    calls = []
    tokens = once_per_trace(lambda trace: calls.append(trace.model.name) or len(trace.tokens))
    one, other = sample_trace(tokens=5), sample_trace(tokens=7)
    assert [tokens(one), tokens(other), tokens(one)] == [5, 7, 5] and len(calls) == 2
    gone = ref(one)
    del one
    gc.collect()
    assert gone() is None and tokens(other) == 7
