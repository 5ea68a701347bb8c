"""The end of the server: runs are cancelled within a token, and nothing new begins."""

import threading

import pytest
from moeviz_app import shared
from moeviz_app.work.worker import Busy, Cancelled, InLine, News, Worker
from waiting import SECONDS


@pytest.fixture
def going_on():
    """A line with a run that goes on until it is cancelled, and one that waits; what was heard of them."""
    worker, begun = Worker(9), threading.Event()

    def endless(tell):
        begun.set()
        while True:
            tell("a token")

    first = worker.ask(endless)
    assert begun.wait(SECONDS)
    return worker, first, worker.ask(lambda tell: "never begun")


def test_stopping_cancels_what_goes_on_and_what_waits_and_takes_no_more(going_on):
    worker, first, second = going_on
    assert worker.stop(SECONDS)
    for heard in (first, second):
        with pytest.raises(Cancelled):
            for news in heard:
                assert isinstance(news, InLine | News)
    with pytest.raises(Busy, match="being stopped"):
        worker.ask(lambda tell: None)


def test_what_hears_of_nothing_is_not_waited_for_longer_than_said():
    worker, begun, end = Worker(9), threading.Event(), threading.Event()

    def deaf(tell):
        begun.set()
        end.wait(SECONDS)

    worker.ask(deaf)
    assert begun.wait(SECONDS)
    assert not worker.stop(0.0)
    end.set()
    assert worker.stop(SECONDS)


def test_every_line_is_stopped(monkeypatch, going_on):
    monkeypatch.setattr(shared, "_lines", {"cpu": going_on[0], "files": Worker(9)})
    assert shared.stop(SECONDS)
    for line in shared._lines.values():
        with pytest.raises(Busy):
            line.ask(lambda tell: None)
