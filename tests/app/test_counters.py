"""What the server counts, and how Prometheus reads it."""

import threading

import pytest
from waiting import SECONDS

from moeviz_app.server import metrics


@pytest.fixture(autouse=True)
def nothing_counted(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", metrics.Metrics())


def test_counts_add_up_by_label():
    metrics.count("runs", end="done")
    metrics.count("runs", end="done")
    metrics.count("runs", 3, end="stopped")
    assert (metrics.value("runs", end="done"), metrics.value("runs", end="stopped")) == (2, 3)
    assert metrics.value("runs", end="failed") == 0
    assert 'moeviz_runs_total{end="stopped"} 3.0\n' in metrics.text()


def test_every_row_is_in_the_text_with_its_help_and_kind_once():
    text = metrics.text()
    for name, row in metrics.COUNTED.items():
        public = f"moeviz_{name}" + ("_total" if row.kind == "counter" else "")
        assert text.count(f"# HELP {public} {row.help}\n# TYPE {public} {row.kind}\n") == 1
    assert "moeviz_waiting 0.0\n" in text and text.endswith("\n")


def test_a_gauge_is_set_moved_or_read_when_asked():
    metrics.gauge("waiting", 5)
    metrics.count("waiting", -2)
    metrics.read_gauge("threads", lambda: 7)
    assert metrics.value("waiting") == 3
    assert metrics.value("threads") == 7 and "moeviz_threads 7.0\n" in metrics.text()


def test_nothing_is_lost_between_threads():
    def many():
        for _ in range(2000):
            metrics.count("tokens", phase="prompt")

    threads = [threading.Thread(target=many, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert metrics.value("tokens", phase="prompt") == 16_000


def test_what_is_not_in_the_table_is_a_bug():
    with pytest.raises(KeyError):
        metrics.count("visits")
    with pytest.raises(ValueError, match="label"):
        metrics.count("runs", prompt="Once")
    with pytest.raises(ValueError, match="non-negative"):
        metrics.count("runs", -1, end="done")
    with pytest.raises(ValueError, match="counted"):
        metrics.gauge("runs", 1, end="done")


def test_a_label_cannot_end_its_line():
    metrics.count("refusals", why='a"b\nc\\')
    assert 'moeviz_refusals_total{why="a\\"b\\nc\\\\"} 1.0\n' in metrics.text()
