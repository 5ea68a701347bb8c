"""What the server counts, and how Prometheus reads it."""

import threading

import pytest
from moeviz_app import counters
from waiting import SECONDS


@pytest.fixture(autouse=True)
def nothing_counted(monkeypatch):
    monkeypatch.setattr(counters, "_values", {})
    monkeypatch.setattr(counters, "_read", {})


def test_counts_add_up_by_label():
    counters.count("runs", end="done")
    counters.count("runs", end="done")
    counters.count("runs", 3, end="stopped")
    assert (counters.value("runs", end="done"), counters.value("runs", end="stopped")) == (2, 3)
    assert counters.value("runs", end="failed") == 0
    assert 'moeviz_runs_total{end="stopped"} 3\n' in counters.text()


def test_every_row_is_in_the_text_with_its_help_and_kind_once():
    text = counters.text()
    for name, row in counters.COUNTED.items():
        public = f"moeviz_{name}" + ("_total" if row.kind == "counter" else "")
        assert text.count(f"# HELP {public} {row.help}\n# TYPE {public} {row.kind}\n") == 1
    assert "moeviz_waiting 0\n" in text and text.endswith("\n")


def test_a_gauge_is_set_moved_or_read_when_asked():
    counters.gauge("waiting", 5)
    counters.count("waiting", -2)
    counters.read_gauge("threads", lambda: 7)
    assert counters.value("waiting") == 3
    assert counters.value("threads") == 7 and "moeviz_threads 7\n" in counters.text()


def test_nothing_is_lost_between_threads():
    def many():
        for _ in range(2000):
            counters.count("tokens", phase="prompt")

    threads = [threading.Thread(target=many, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert counters.value("tokens", phase="prompt") == 16_000


def test_what_is_not_in_the_table_is_a_bug():
    with pytest.raises(KeyError):
        counters.count("visits")
    with pytest.raises(ValueError, match="labels"):
        counters.count("runs", prompt="Once")
    with pytest.raises(ValueError, match="cannot fall"):
        counters.count("runs", -1, end="done")
    with pytest.raises(ValueError, match="counted, and not set"):
        counters.gauge("runs", 1, end="done")


def test_a_label_cannot_end_its_line():
    counters.count("refusals", why='a"b\nc\\')
    assert 'moeviz_refusals_total{why="a\\"b\\nc\\\\"} 1\n' in counters.text()
