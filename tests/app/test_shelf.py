"""What tabs keep: budgets of bytes, traces of earlier visits, and that a tab that is closed keeps nothing."""

import errno
import gc
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from weakref import ref

import pytest
from app_pages import script_of, sentences, visit_of

from moeviz.errors import MoevizError
from moeviz.formats.exports import export_for
from moeviz.formats.importers.importer import Opened
from moeviz.formats.kept_traces import keep_trace, kept_trace, kept_traces
from moeviz.testing import sample_trace
from moeviz_app import settings
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.server import identity, metrics
from moeviz_app.session import library, opened, recent
from moeviz_app.session.library import SessionLibrary, bytes_kept, check_memory

MB = 10**6


@pytest.fixture
def limits(monkeypatch):
    """Change what the deployment sets; budgets in bytes, since traces are small here."""
    monkeypatch.setattr(library, "MB", 1)
    endless = replace(settings.SETTINGS, session_mb=10**12, process_mb=10**12)
    return lambda **more: monkeypatch.setattr(settings, "SETTINGS", replace(endless, **more))


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    """No tabs of other tests."""
    monkeypatch.setattr(library, "_libraries", [])


def filled(count: int, tokens: int = 8) -> SessionLibrary:
    """A tab with so many traces of the same size."""
    tab = SessionLibrary()
    for number in range(count):
        tab.put(f"{number}", sample_trace(tokens=tokens), 8)
    return tab


def size() -> int:
    """Bytes of one of them: Python's strings grow when something has encoded them."""
    return sample_trace(tokens=8).nbytes


def test_the_bytes_of_a_trace_are_those_of_its_arrays_and_its_tokens(trace):
    assert trace.nbytes > trace.experts.nbytes + trace.weights.nbytes + trace.logits.nbytes + 13 * len(trace.tokens)


def test_over_the_budget_of_a_tab_its_oldest_traces_go_and_are_named(limits):
    limits(session_mb=3 * size() + 1)
    before = metrics.value("evictions", what="trace")
    tab = filled(5)
    assert [*tab] == ["2", "3", "4"] and tab.dropped == ["0", "1"]
    assert metrics.value("evictions", what="trace") - before == 2


def test_what_a_tab_shows_stays_however_large_it_is(limits):
    limits(session_mb=1)
    assert [*filled(2)] == ["1"]


def test_over_the_budget_of_the_server_the_oldest_of_all_tabs_go_but_never_the_last_of_one(limits):
    limits(process_mb=4 * size() + 1)
    first, second = filled(2), filled(2)
    second.put("2", sample_trace(tokens=8), 8)
    assert ([*first], [*second]) == (["1"], ["0", "1", "2"]) and first.dropped == ["0"]
    for number in range(3, 9):
        second.put(f"{number}", sample_trace(tokens=8), 8)
    assert [*first] == ["1"] and bytes_kept() <= 4 * size() + 1


def test_a_trace_that_several_tabs_keep_counts_once(limits, trace):
    tabs = [SessionLibrary({"a": trace}) for _ in range(3)]
    assert bytes_kept() == trace.nbytes == metrics.value("trace_bytes") and len(tabs) == 3


def test_a_file_that_is_more_than_a_tab_may_keep_is_refused(limits, trace, monkeypatch):
    limits(session_mb=10)
    monkeypatch.setattr(opened, "read_sandboxed", lambda *args: Opened(trace))
    with pytest.raises(MoevizError, match=r"'x\.npz'.*MB.*keep 10 MB"):
        opened.read_upload(b"", "x.npz")


def test_where_the_server_is_full_a_file_is_refused(limits, trace):
    limits(process_mb=size() + 1)
    tab = filled(1)
    with pytest.raises(MoevizError, match="MB"):
        check_memory(trace, "x.npz")
    assert [*tab] == ["0"]


def test_with_a_trace_goes_what_is_known_of_its_run(limits, trace):
    tab = SessionLibrary({"a": trace})
    tab.runs = [(trace, RunRequest("a", "embedded"))]
    limits(session_mb=1)
    tab.put("b", sample_trace(tokens=3), 8)
    assert tab.runs == [] and [*tab] == ["b"]


def test_a_tab_that_is_gone_keeps_nothing():
    tab = filled(3)
    traces = [ref(trace) for trace in tab.values()]
    assert bytes_kept() == 3 * size()
    del tab
    gc.collect()
    assert [trace() for trace in traces] == [None] * 3 and bytes_kept() == 0


def test_a_trace_that_later_runs_pushed_out_is_freed(monkeypatch):
    tab = SimpleNamespace(recent=SessionLibrary(), brought=[])
    monkeypatch.setattr(recent, "visit", lambda: tab)
    monkeypatch.setattr(recent, "keep", lambda *_: None)
    seen = []
    for number in range(recent.RECENT_TRACES + 3):
        made = sample_trace(tokens=3)
        seen.append(ref(made))
        recent.remember(made, RunRequest(str(number), "embedded"), str(number))
    del made
    gc.collect()
    assert [one() is None for one in seen] == [True] * 3 + [False] * recent.RECENT_TRACES
    assert len(tab.recent.runs) == recent.RECENT_TRACES


def nothing():
    pass


def test_a_visit_that_is_over_keeps_nothing():
    """The same of a whole session of Streamlit, after the state of its widgets is cleared as it is at the end."""
    app = script_of(nothing)
    visit_of(app).recent = filled(3)
    app.run()
    traces = [ref(trace) for trace in visit_of(app).recent.values()]
    del app
    gc.collect()
    assert [trace() for trace in traces] == [None] * 3


@pytest.fixture
def own(monkeypatch, tmp_path, request) -> Path:
    """The folder of the machine's own user, who is here."""
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path))
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, keep_traces=True, serve="private"))
    monkeypatch.setattr(identity, "is_local", lambda: True)
    yield tmp_path / "traces"
    recent.settle()
    recent._troubles.clear()


def traces_page():
    from moeviz_app.views.traces import traces_page

    traces_page()


def compare_page():
    from moeviz_app.views.compare import compare_page

    compare_page()


def remember_two():
    from moeviz.testing import sample_trace
    from moeviz_app.jobs.run_request import RunRequest
    from moeviz_app.session import session

    session.set_trace(sample_trace(tokens=5), RunRequest("five", "embedded"))
    session.set_trace(sample_trace(tokens=6))


def names_of(app) -> list[str]:
    return [*visit_of(app).recent]


def test_recent_traces_are_there_again_after_a_restart(own):
    before = script_of(remember_two).run()
    assert not before.exception
    recent.settle()
    assert [kept_trace(path).title for path in kept_traces(own)] == names_of(before)[::-1]
    for page in (traces_page, compare_page):
        after = script_of(page).run()
        assert not after.exception
        assert [len(trace.tokens) for trace in visit_of(after).recent.values()] == [5, 6]
        ((first, run),) = visit_of(after).recent.runs
        assert run == RunRequest("five", "embedded") and len(first.tokens) == 5
        assert not after.run().exception and len(names_of(after)) == 2  # and not twice
    assert "current trace" in str(script_of(traces_page).run().selectbox[0].label).lower()


def test_a_new_name_is_kept_too(own):
    app = script_of(remember_two).run()
    page = script_of(traces_page)
    visit_of(page).trace = visit_of(app).trace
    visit_of(page).recent = visit_of(app).recent
    page.run().text_input[0].set_value("mine").run()
    recent.settle()
    assert not page.exception and "mine" in [kept_trace(path).title for path in kept_traces(own)]
    assert len(kept_traces(own)) == 2


@pytest.mark.parametrize("why", ["a stranger", "turned off", "a team"])
def test_of_a_stranger_nothing_is_written_and_nothing_is_shown(own, monkeypatch, why):
    keep_trace(own, sample_trace(tokens=3), "of the machine's user", {})
    if why == "a stranger":
        monkeypatch.setattr(identity, "is_local", lambda: False)
    changes = {"turned off": {"keep_traces": False}, "a team": {"serve": "team"}}.get(why, {})
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, **changes))
    recent._troubles.append("a sentence about somebody's trace")
    script_of(remember_two).run()
    recent.settle()
    assert [kept_trace(path).title for path in kept_traces(own)] == ["of the machine's user"]
    page = script_of(traces_page).run()
    assert not visit_of(page).recent or not names_of(page)
    assert "somebody" not in sentences(page)


def test_only_one_person_on_their_own_machine_keeps_traces():
    read = settings.read_settings
    assert read({"MOEVIZ_SERVE": "private"}).keep_traces
    for environment in ({"MOEVIZ_SERVE": "private", "MOEVIZ_KEEP_TRACES": "0"}, {}, {"MOEVIZ_KEEP_TRACES": "1"}):
        assert not read(environment).keep_traces


def test_an_unreadable_trace_is_named_and_the_others_come_back(own):
    script_of(remember_two).run()
    recent.settle()
    newest, _ = kept_traces(own)
    newest.write_bytes(b"PK")
    page = script_of(traces_page).run()
    assert not page.exception and len(names_of(page)) == 1
    assert newest.name in sentences(page) and "was set aside as" in sentences(page)
    assert newest.with_name(newest.name + ".unreadable").exists()


def test_a_full_disk_is_one_sentence_and_nothing_is_lost_in_memory(own, monkeypatch, caplog):
    def full(*args, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("moeviz.formats.kept_traces.write_file", full)
    app = script_of(remember_two).run()
    recent.settle()
    assert len(names_of(app)) == 2 and kept_traces(own) == []
    page = script_of(traces_page)
    visit_of(page).recent = visit_of(app).recent
    said = sentences(page.run())
    assert "cannot be kept for later visits: No space left on device. It is here until the server stops." in said
    assert "No space left" in caplog.text and "five" not in caplog.text


def test_where_no_thread_can_be_started_it_is_said(own, monkeypatch):
    def full(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(recent._writer, "submit", full)
    app = script_of(remember_two).run()
    assert not app.exception and len(names_of(app)) == 2
    assert any("can't start new thread" in trouble for trouble in recent._troubles)


def test_traces_that_were_let_go_are_named_on_the_page(limits):
    app = script_of(traces_page)
    tab = filled(2)
    limits(session_mb=1)
    tab.put("newest", sample_trace(tokens=4), 8)
    visit_of(app).recent = tab
    assert "Memory was needed, so the oldest traces were let go: “0”, “1”." in sentences(app.run())
    assert "Memory was needed" not in sentences(app.run())


def test_a_file_is_opened_through_a_process_of_its_own(monkeypatch, trace):
    app = script_of(traces_page).run()
    read = []
    monkeypatch.setattr(opened, "read_sandboxed", lambda *args: read.append(args) or Opened(trace))
    app.file_uploader[0].upload("mine.npz", export_for("mine.npz").write(trace), "application/octet-stream").run()
    assert not app.exception and visit_of(app).trace is trace
    assert [name for _, name, *_ in read] == ["mine.npz"]
