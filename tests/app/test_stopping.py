"""The end of the server: runs are cancelled within a token, and nothing new begins."""

import threading

import pytest
from waiting import SECONDS

from moeviz_app.jobs import model_service
from moeviz_app.jobs.fair_queue import Busy, Cancelled, FairQueue, InLine, Progress


@pytest.fixture
def going_on():
    """A line with a run that goes on until it is cancelled, and one that waits; what was heard of them."""
    worker, begun = FairQueue(9), threading.Event()

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
                assert isinstance(news, InLine | Progress)
    with pytest.raises(Busy, match="being stopped"):
        worker.ask(lambda tell: None)


def test_what_hears_of_nothing_is_not_waited_for_longer_than_said():
    worker, begun, end = FairQueue(9), threading.Event(), threading.Event()

    def deaf(tell):
        begun.set()
        end.wait(SECONDS)

    worker.ask(deaf)
    assert begun.wait(SECONDS)
    assert not worker.stop(0.0)
    end.set()
    assert worker.stop(SECONDS)


def test_every_line_is_stopped(monkeypatch, going_on):
    monkeypatch.setattr(model_service, "_lines", {"cpu": going_on[0], "files": FairQueue(9)})
    assert model_service.stop(SECONDS)
    for line in model_service._lines.values():
        with pytest.raises(Busy):
            line.ask(lambda tell: None)
