"""Pages are drawn one after the other, and none waits for one that waits itself."""

import threading
from functools import partial

import pytest
from waiting import SECONDS, until

from moeviz_app.jobs import fair_queue, render_lock
from moeviz_app.jobs.fair_queue import Busy, Client, FairQueue, QueueLimits
from moeviz_app.jobs.model_catalog import call_with_timeout
from moeviz_app.jobs.render_lock import FairSemaphore, released, render_slot, slow_down


@pytest.fixture(autouse=True)
def a_room_of_its_own(monkeypatch):
    monkeypatch.setattr(render_lock, "_room", FairSemaphore(1))
    for name in ("SECONDS", "SECONDS_OF_OWN"):
        monkeypatch.setattr(render_lock, name, 10 * SECONDS)  # a test has failed before a turn is given up


def in_a_thread(go):
    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    return thread


def test_two_pages_are_drawn_one_after_the_other():
    at_once, most = [0], [0]
    guard = threading.Lock()

    def draw(visitor):
        for _ in range(20):
            with render_slot(visitor):
                with guard:
                    at_once[0] += 1
                    most[0] = max(most[0], at_once[0])
                threading.Event().wait(0.001)
                with guard:
                    at_once[0] -= 1

    threads = [in_a_thread(partial(draw, visitor)) for visitor in "aabc"]
    for thread in threads:
        thread.join(SECONDS)
    assert most == [1]


def test_who_cannot_be_told_apart_lets_all_others_go_before():
    drawn = []

    def draw(visitor, is_browser=True):
        with render_slot(visitor, is_browser):
            drawn.append(visitor)

    with render_slot():
        threads = [in_a_thread(partial(draw, "crowd", is_browser=False))]
        until(lambda: render_lock._room._behind)
        for count, visitor in enumerate(("one", "two"), 1):
            threads.append(in_a_thread(partial(draw, visitor)))
            until(lambda count=count: len(render_lock._room._line) == count)
    for thread in threads:
        thread.join(SECONDS)
    assert drawn == ["one", "two", "crowd"]


def test_a_crowd_waits_until_the_others_have_what_they_wait_for(monkeypatch):
    """Two of a few who cannot be told apart are drawn while another waits for a run; of a crowd, nobody is."""
    drawn, waits, may_end = [], threading.Event(), threading.Event()
    monkeypatch.setattr(render_lock, "QUIET_SECONDS", 0)

    def one_of(crowd):
        with render_slot(crowd, is_browser=False):
            drawn.append(crowd)

    def run():
        with render_slot("visitor"), released():
            waits.set()
            may_end.wait(SECONDS)
            drawn.append("visitor")

    def line(crowd, count):
        own = render_lock._own.setdefault(crowd, FairSemaphore(0))
        threads = [in_a_thread(partial(one_of, crowd)) for _ in range(count)]
        until(lambda: own.waiting == count)
        own.leave()
        return threads

    visitor = in_a_thread(run)
    assert waits.wait(SECONDS)
    crowd, few = line("crowd", render_lock.FEW + 2), line("few", 2)
    for thread in few:
        thread.join(SECONDS)
    assert drawn == ["few"] * 2
    may_end.set()
    for thread in [visitor, *crowd]:
        thread.join(SECONDS)
    assert drawn == ["few"] * 2 + ["visitor"] + ["crowd"] * (render_lock.FEW + 2)


def test_who_waits_for_something_lets_another_draw_and_draws_on_afterwards():
    drawn = threading.Event()

    def draw():
        with render_slot("another"):
            drawn.set()

    with render_slot():
        other = in_a_thread(draw)
        until(lambda: render_lock._room._line)
        assert not drawn.is_set()
        with released():
            assert drawn.wait(SECONDS)
            other.join(SECONDS)
        assert not render_lock._room.enter(0), "its turn is its own again"
    assert render_lock._room.enter(0)


def test_nobody_is_held_up_for_ever_by_a_slow_page(monkeypatch):
    with render_slot():
        monkeypatch.setattr(render_lock, "SECONDS", 0.01)
        drawn = threading.Event()

        def draw():
            with render_slot("another"), released():
                drawn.set()

        in_a_thread(draw).join(SECONDS)
        assert drawn.is_set()
    assert render_lock._room.enter(0), "who had no place gave none back"
    assert not render_lock._room.enter(0)


def test_a_look_up_that_holds_a_lock_does_not_wait_for_the_turn_of_one_who_waits_for_the_lock():
    lock, held = threading.Lock(), threading.Event()

    def look_up():
        with render_slot("visitor"), lock:
            held.set()
            call_with_timeout("a model", lambda: other_waits.wait(SECONDS), SECONDS)

    def draw():
        with render_slot("visitor"):
            other_waits.set()
            with lock:
                pass

    other_waits = threading.Event()
    first = in_a_thread(look_up)
    assert held.wait(SECONDS)
    second = in_a_thread(draw)
    for thread in (first, second):
        thread.join(SECONDS)  # a turn is waited for for longer here
        assert not thread.is_alive()


def test_outside_of_a_turn_there_is_nothing_to_let_go_of():
    with released():
        assert render_lock._room.enter(0)
        assert not render_lock._room.enter(0)


def test_a_page_that_fails_gives_its_turn_back():
    with pytest.raises(ZeroDivisionError), render_slot(), released():
        raise ZeroDivisionError
    assert render_lock._room.enter(0)


def test_many_tabs_of_one_visitor_have_one_place_in_line():
    drawn = []

    def draw(visitor):
        with render_slot(visitor):
            drawn.append(visitor)

    with render_slot("first"):
        tabs = [in_a_thread(partial(draw, "hog")) for _ in range(8)]
        until(lambda: len(render_lock._room._line) + len(render_lock._own["hog"]._line) == 8)
        other = in_a_thread(partial(draw, "another"))
        until(lambda: len(render_lock._room._line) == 2)
    for thread in [*tabs, other]:
        thread.join(SECONDS)
    assert drawn[:2] == ["hog", "another"]


def test_who_comes_too_late_has_not_got_the_place_that_is_free_by_then():
    room = FairSemaphore(1)
    assert room.enter(0)
    assert not room.enter(0.01)
    room.leave()
    assert room.enter(0)
    assert not room.enter(0)


def test_who_asks_for_too_much_waits_with_all_their_tabs_and_nobody_else_does(monkeypatch):
    slept, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(render_lock.time, "sleep", lambda _seconds: (slept.set(), goes_on.wait(SECONDS)))
    drawn = []

    def draw(visitor, too_much=False):
        with render_slot(visitor):
            drawn.append(visitor)
            if too_much:
                slow_down()

    first = in_a_thread(partial(draw, "hog", too_much=True))
    assert slept.wait(SECONDS)
    second = in_a_thread(partial(draw, "hog"))
    in_a_thread(partial(draw, "another")).join(SECONDS)
    assert drawn == ["hog", "another"], "the hog's second tab waits"
    goes_on.set()
    first.join(SECONDS)
    second.join(SECONDS)
    assert drawn == ["hog", "another", "hog"]


def test_a_visitor_refused_for_too_many_runs_pauses_and_one_of_a_busy_server_does_not(monkeypatch):
    paused = []
    monkeypatch.setattr(fair_queue, "slow_down", lambda: paused.append(True))
    for places, expected in ((QueueLimits(9, 1, 9), 1), (QueueLimits(1, 9, 9), 0)):
        line, release = FairQueue(places), threading.Event()
        listening = line.ask(lambda _tell, release=release: release.wait(SECONDS), Client("hog"))
        with pytest.raises(Busy):
            line.ask(lambda _tell: None, Client("hog"))
        assert len(paused) == expected
        paused.clear()
        release.set()
        listening.close()
