"""The queue of one model: order, places in line, cancelling, errors, and no more than may wait."""

import threading
import time

import pytest
from moeviz_app.worker import Busy, Done, InLine, News, Worker, result

SECONDS = 30


def until(condition):
    """Wait for what another thread does; the test fails where it never comes."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def held_up(worker):
    """Work that has begun and waits to be let go, and its iterator."""
    go, begun = threading.Event(), threading.Event()

    def work(_tell):
        begun.set()
        go.wait(SECONDS)
        return "first"

    heard = worker.ask(work)
    assert begun.wait(SECONDS)
    return go, heard


def test_news_come_in_order_and_the_result_last():
    def work(tell):
        for number in range(3):
            tell(number)
        return "end"

    heard = list(Worker(5).ask(work))
    assert heard[-1] == Done("end")
    news = [told.value for told in heard[:-1] if isinstance(told, News)]
    assert news == sorted(news)


def test_who_waits_hears_how_many_are_before():
    worker = Worker(5)
    go, first = held_up(worker)
    second, third = (worker.ask(lambda _tell, name=name: name) for name in ("second", "third"))
    assert next(second) == InLine(1) and next(third) == InLine(2)
    go.set()
    assert [result(heard, lambda _told: None) for heard in (first, second, third)] == ["first", "second", "third"]


def test_more_than_may_wait_are_refused_and_those_that_left_do_not_count():
    worker = Worker(1)
    go, first = held_up(worker)
    second = worker.ask(lambda _tell: pytest.fail("nobody waits for this any more"))
    next(second)
    with pytest.raises(Busy, match="with 1 already waiting"):
        worker.ask(lambda _tell: None)
    second.close()
    third = worker.ask(lambda _tell: "third")
    go.set()
    assert result(first, lambda _told: None) == "first"
    assert result(third, lambda _told: None) == "third"


def test_work_that_nobody_hears_ends_when_it_next_tells_something():
    steps, ended = [], threading.Event()

    def work(tell):
        try:
            while True:
                steps.append(1)
                tell(len(steps))
        finally:
            ended.set()

    worker = Worker(5)
    heard = worker.ask(work)
    next(heard)
    heard.close()
    assert ended.wait(SECONDS)
    assert result(worker.ask(lambda _tell: "free again"), lambda _told: None) == "free again"


def test_an_error_is_raised_where_one_listens_and_the_worker_goes_on():
    worker = Worker(5)
    with pytest.raises(ZeroDivisionError):
        list(worker.ask(lambda _tell: 1 / 0))
    assert result(worker.ask(lambda _tell: 7), lambda _told: None) == 7


def test_no_thread_stays_when_there_is_no_work():
    worker = Worker(5)
    assert result(worker.ask(lambda _tell: 7), lambda _told: None) == 7
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "moeviz-worker"])
