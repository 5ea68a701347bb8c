"""The line of one device: fair turns, places in line, cancelling, errors, and no more than may wait."""

import threading
import time
from contextlib import closing

import pytest
import torch
from waiting import SECONDS, until

import moeviz
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.together import shared_decoding
from moeviz.capture.trace import capture_growing
from moeviz.errors import CaptureError
from moeviz.formats.exports import export_for
from moeviz.testing import sample_trace
from moeviz_app.jobs import fair_queue as worker_module
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.background import in_steps
from moeviz_app.jobs.errors import RunFailed
from moeviz_app.jobs.fair_queue import Busy, Client, Done, FairQueue, InLine, Progress, QueueLimits, wait_for

ONE, OTHER = Client("one", "here"), Client("other", "here")


@pytest.fixture(autouse=True)
def a_step_a_turn(monkeypatch):
    """Turns last one step here, so that their order does not depend on the clock."""
    monkeypatch.setattr(worker_module, "TURN_SECONDS", -1.0)


def held_up(worker, asker=worker_module.NOBODY):
    """Work that has begun and waits to be let go, and its iterator."""
    go, begun = threading.Event(), threading.Event()

    def work(_tell):
        begun.set()
        go.wait(SECONDS)
        return "first"

    heard = worker.ask(work, asker)
    assert begun.wait(SECONDS)
    return go, heard


def end_of(heard):
    return wait_for(heard, lambda _told: None)


def short(name, done):
    return lambda _tell: done.append(name)


def long(name, done, steps=3):
    """Work in steps: each notes its name."""

    def work(_tell):
        for step in range(steps):
            done.append(name)
            yield step
        return name

    return work


def test_news_come_in_order_and_the_result_last():
    def work(tell):
        for number in range(3):
            tell(number)
        return "end"

    heard = list(FairQueue(5).ask(work))
    assert heard[-1] == Done("end")
    news = [told.value for told in heard[:-1] if isinstance(told, Progress)]
    assert news == sorted(news)


def test_a_long_text_s_steps_are_news_and_what_it_returns_is_the_result():
    heard = list(FairQueue(5).ask(long("text", [])))
    assert heard[-1] == Done("text")
    assert {told.value for told in heard if isinstance(told, Progress)} <= {0, 1, 2}


def test_who_waits_hears_how_many_are_before():
    worker = FairQueue(5)
    go, first = held_up(worker)
    second, third = (worker.ask(lambda _tell, name=name: name) for name in ("second", "third"))
    assert next(second) == InLine(1) and next(third) == InLine(2)
    go.set()
    assert [end_of(heard) for heard in (first, second, third)] == ["first", "second", "third"]


def test_visitors_take_turns_however_many_runs_one_of_them_has_asked_for():
    worker, done = FairQueue(50), []
    go, _first = held_up(worker, ONE)
    hog = [worker.ask(short(f"one {n}", done), ONE) for n in range(20)]
    late = worker.ask(short("other", done), OTHER)
    assert next(late) == InLine(2), "the run that is on, and one of the twenty"
    go.set()
    for heard in [*hog, late]:
        end_of(heard)
    assert done[:3] == ["one 0", "other", "one 1"]


def test_a_short_prompt_waits_for_a_step_of_a_long_text_and_not_for_the_text():
    worker, done = FairQueue(50), []
    go, _first = held_up(worker)
    text = worker.ask(long("text", done, steps=50), ONE)
    prompt = worker.ask(short("prompt", done), OTHER)
    go.set()
    end_of(prompt)
    assert end_of(text) == "text"
    assert done.index("prompt") == 1 and done.count("text") == 50


def test_a_short_prompt_comes_between_long_texts_of_the_same_visitor_too():
    worker, done = FairQueue(50), []
    go, _first = held_up(worker)
    texts = [worker.ask(long(name, done, steps=9), ONE) for name in "ab"]
    prompt = worker.ask(short("prompt", done), ONE)
    go.set()
    for heard in [*texts, prompt]:
        end_of(heard)
    assert done[:5] == ["a", "b", "prompt", "a", "b"]


@pytest.fixture
def rows():
    """How many rows each forward of the embedded model has."""
    seen, stack = [], model_service.model("embedded").model.model
    hook = stack.register_forward_pre_hook(lambda _m, _a, how: seen.append(len(how["input_ids"])), with_kwargs=True)
    yield seen
    hook.remove()


def written(text, new_tokens):
    """Work that writes with the embedded model, as a page asks for it."""

    def write(loaded, _tell):
        with closing(capture_growing(loaded, CaptureRequest((text,), new_tokens))) as grown:
            for trace in grown:
                yield trace
        return trace

    return model_service._with_model("embedded", model_catalog.DEFAULT_LOAD, write)


def test_visitors_texts_are_written_together_and_each_is_as_it_is_alone(rows):
    model, texts = model_service.model("embedded"), ["To be", "Il fait froid", "12 + 7 ="]
    alone = [moeviz.trace(model, text, max_new_tokens=6) for text in texts]
    worker, done = FairQueue(9), []
    go, _first = held_up(worker)
    heard = [worker.ask(written(text, 6), Client(text, "")) for text in texts]
    left = worker.ask(written("a " * 50, 900), Client("left", ""))
    prompt = worker.ask(lambda _tell: done.append(len(rows)), Client("prompt", ""))
    del rows[:]
    go.set()
    made = [end_of(one) for one in heard]
    end_of(prompt)
    assert done == [4], "a short prompt waits for the prompts before it, and for no text"
    next(left)
    left.close()
    until(lambda: not shared_decoding(model.model).bytes_held)
    assert rows[:9] == 4 * [1] + 5 * [4] and set(rows[9:]) <= {1}, "prompts alone, then all of them token by token"
    for one, other in zip(alone, made, strict=True):
        assert other.tokens.equals(one.tokens) and (other.experts == one.experts).all()


def test_a_text_that_grew_in_anothers_turn_still_has_its_own(rows, monkeypatch):
    """Else texts that are written together need a round of the line for each turn of one of them."""
    worker, done, prompt = FairQueue(9), [], []
    go, _first = held_up(worker)

    def ask_with_long_turns(_tell):
        monkeypatch.setattr(worker_module, "TURN_SECONDS", SECONDS)
        prompt.append(worker.ask(lambda _tell: done.append(len(rows)), Client("prompt", "")))

    texts = [worker.ask(written(text, tokens), Client(text, "")) for text, tokens in (("To be", 4), ("Il fait", 12))]
    asked = worker.ask(ask_with_long_turns, Client("asks", ""))
    del rows[:]
    go.set()
    for heard in (*texts, asked, *prompt):
        end_of(heard)
    assert done == [len(rows)] and rows[:5] == [1, 1, 2, 2, 2] and set(rows[5:]) == {1}


def test_no_more_long_texts_are_begun_than_memory_is_meant_for_and_short_prompts_pass_them(monkeypatch):
    monkeypatch.setattr(worker_module, "MOST_BEGUN", 2)
    worker, done = FairQueue(50), []
    go, _first = held_up(worker)
    texts = [worker.ask(long(name, done, steps=3), Client(name, "here")) for name in "abc"]
    prompt = worker.ask(short("prompt", done), OTHER)
    go.set()
    for heard in [*texts, prompt]:
        end_of(heard)
    assert done.index("prompt") <= 2
    assert done.index("c") > done.index("a") and done[: done.index("c")].count("a") == 3, "c waits for a's end"


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (QueueLimits(1, 9, 9), "This server already has 1 run in line, and takes no more"),
        (QueueLimits(9, 1, 9), "You already have 1 run in line"),
        (QueueLimits(9, 9, 1), "Your network already has 1 run in line"),
    ],
)
def test_more_than_may_wait_are_refused_and_those_that_left_do_not_count(places, says):
    worker = FairQueue(places)
    go, first = held_up(worker, ONE)
    with pytest.raises(Busy, match=says):
        worker.ask(lambda _tell: None, ONE)
    next(first)
    first.close()
    second = worker.ask(lambda _tell: "second", ONE)
    go.set()
    assert end_of(second) == "second"


def test_the_last_places_of_an_address_and_of_all_are_for_visitors_who_have_none():
    for places in (QueueLimits(99, 9, 8), QueueLimits(8, 9, 99)):
        worker, done = FairQueue(places), []
        go, first = held_up(worker, ONE)
        heard = [first, *(worker.ask(short("one", done), ONE) for _ in range(5))]
        with pytest.raises(Busy, match="6 runs"):
            worker.ask(short("one", done), ONE)
        heard += [worker.ask(short(who, done), Client(who, "here")) for who in ("two", "three")]
        go.set()
        for each in heard:
            end_of(each)
        assert {"two", "three"} <= set(done[:3])


def test_beside_a_hundred_visitors_without_a_cookie_one_who_has_one_runs_next():
    worker, done = FairQueue(QueueLimits(200, 2, 100)), []
    crowd = Client("all of an address", "here", is_browser=False)
    go, first = held_up(worker, crowd)
    heard = [worker.ask(short("crowd", done), crowd) for _ in range(9)]
    with pytest.raises(Busy, match="10 runs"):
        worker.ask(short("crowd", done), crowd)
    honest = worker.ask(short("honest", done), ONE)
    go.set()
    for each in (first, honest, *heard):
        end_of(each)
    assert done.index("honest") <= 1


def test_those_without_a_cookie_have_a_turn_now_and_then_while_others_wait(monkeypatch):
    turns = {1e6: ["one", "one", "one", "crowd", "crowd"], 0.0: ["crowd", "one", "crowd", "one", "one"]}
    for seconds, order in turns.items():
        monkeypatch.setattr(worker_module, "SHARED_SECONDS", seconds)
        worker, done = FairQueue(QueueLimits(200, 8, 100)), []
        crowd = Client("all of an address", "here", is_browser=False)
        go, first = held_up(worker, crowd)
        heard = [worker.ask(short("crowd", done), crowd) for _ in range(2)]
        heard += [worker.ask(short("one", done), ONE) for _ in range(3)]
        go.set()
        for each in (first, *heard):
            end_of(each)
        assert done == order


def test_what_another_visitor_has_in_line_leaves_ones_own_places():
    worker = FairQueue(QueueLimits(9, 1, 2))
    go, _first = held_up(worker, ONE)
    mine = worker.ask(lambda _tell: "mine", OTHER)
    with pytest.raises(Busy, match="2 runs"):
        worker.ask(lambda _tell: None, Client("third", "here"))
    elsewhere = worker.ask(lambda _tell: "elsewhere", Client("third", "there"))
    go.set()
    assert [end_of(mine), end_of(elsewhere)] == ["mine", "elsewhere"]


def test_a_tab_that_asks_anew_has_cancelled_what_it_asked_before():
    worker, done = FairQueue(QueueLimits(9, 1, 9)), []
    go, _first = held_up(worker)
    worker.ask(short("before", done), Client("one", "here", tab="a"))
    with pytest.raises(Busy):
        worker.ask(short("elsewhere", done), Client("one", "here", tab="b"))
    again = worker.ask(short("again", done), Client("one", "here", tab="a"))
    go.set()
    end_of(again)
    assert done == ["again"]


def test_work_that_nobody_hears_ends_when_it_next_tells_something():
    steps, ended = [], threading.Event()

    def work(tell):
        try:
            while True:
                steps.append(1)
                tell(len(steps))
        finally:
            ended.set()

    worker = FairQueue(5)
    heard = worker.ask(work)
    next(heard)
    heard.close()
    assert ended.wait(SECONDS)
    assert end_of(worker.ask(lambda _tell: "free again")) == "free again"


def test_a_long_text_that_nobody_hears_is_closed_at_its_next_turn():
    closed, worker = threading.Event(), FairQueue(5)

    def work(_tell):
        try:
            while True:
                yield
        finally:
            closed.set()

    heard = worker.ask(work)
    while not isinstance(next(heard), Progress):
        pass
    heard.close()
    assert closed.wait(SECONDS)
    assert end_of(worker.ask(lambda _tell: "free again")) == "free again"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ZeroDivisionError("secret path"), r"\(ZeroDivisionError\)"),
        (MemoryError(), "There was not enough memory in this run"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "There was not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "not enough"),
        (RuntimeError("can't start new thread"), "ran out of threads"),
        (CaptureError("no such thing"), "^no such thing$"),
    ],
)
def test_what_fails_is_told_in_a_sentence_and_the_line_goes_on(error, says, caplog):
    def work(_tell):
        raise error

    def steps(_tell):
        yield 1
        raise error

    worker = FairQueue(5)
    for fails in (work, steps):
        with pytest.raises((RunFailed, CaptureError), match=says) as told:
            list(worker.ask(fails))
        assert "secret" not in str(told.value)
    assert isinstance(error, CaptureError) or str(error) in caplog.text, "the log has the whole of it"
    assert end_of(worker.ask(lambda _tell: 7)) == 7


def test_a_thread_that_cannot_start_is_told_and_the_line_goes_on(monkeypatch):
    worker = FairQueue(5)

    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Busy, match="run out of threads"):
            worker.ask(lambda _tell: pytest.fail("it was refused"))
    assert end_of(worker.ask(lambda _tell: 7)) == 7


def test_no_work_is_lost_where_many_threads_ask_while_the_line_falls_to_rest_again_and_again():
    """A queue whose thread ends just as somebody asks must begin another: each round asks at that moment."""
    worker, done, wrong = FairQueue(1000), [], []

    def visitor(number):
        try:
            for turn in range(60):
                assert end_of(worker.ask(short((number, turn), done), Client(str(number), str(number)))) is None
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=visitor, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS / 3)
    assert not wrong and not any(thread.is_alive() for thread in threads)
    assert sorted(done) == [(number, turn) for number in range(8) for turn in range(60)]


def test_the_clock_of_the_machine_may_jump(monkeypatch):
    """Only the monotonic clock counts; one that is set back or forth changes no turn."""
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was read"))
    worker, done = FairQueue(5), []
    texts = [worker.ask(long(name, done), Client(name, "")) for name in "ab"]
    assert [end_of(heard) for heard in texts] == ["a", "b"]


def test_no_thread_stays_when_there_is_no_work_and_the_line_is_then_at_rest():
    rested = threading.Event()
    worker = FairQueue(5, at_rest=rested.set)
    assert end_of(worker.ask(lambda _tell: 7)) == 7
    assert rested.wait(SECONDS)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "moeviz-worker"])


def test_work_that_tells_how_far_it_is_gives_its_turn_away_there():
    worker, done = FairQueue(5), []

    def training(tell):
        for step in range(3):
            done.append("training")
            tell(step)
        return "trained"

    go, _first = held_up(worker)
    trained = worker.ask(in_steps(training), ONE)
    prompt = worker.ask(short("prompt", done), OTHER)
    go.set()
    end_of(prompt)
    assert end_of(trained) == "trained"
    assert done == ["training", "prompt", "training", "training"]


def test_training_that_nobody_waits_for_ends_at_its_next_step_and_what_it_raises_is_told():
    worker, ended = FairQueue(5), threading.Event()

    def forever(tell):
        try:
            while True:
                tell(0)
        finally:
            ended.set()

    heard = worker.ask(in_steps(forever))
    while not isinstance(next(heard), Progress):
        pass
    heard.close()
    assert ended.wait(SECONDS)

    def fails(_tell):
        raise CaptureError("no")

    with pytest.raises(CaptureError, match="no"):
        list(worker.ask(in_steps(fails)))
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "moeviz-in-turns"])


def test_dear_work_goes_on_only_while_nothing_else_is_in_line():
    worker, done = FairQueue(9), []

    def dear(tell):
        for step in range(4):
            done.append(f"dear {step}")
            tell(step)

    go, first = held_up(worker)
    measured = worker.ask(in_steps(dear), ONE, dear=True)
    prompts = [worker.ask(long("prompt", done, steps=3), OTHER), worker.ask(short("read", done))]
    go.set()
    for each in (first, *prompts, measured):
        end_of(each)
    assert sorted(done[:4]) == ["prompt"] * 3 + ["read"] and done[4:] == [f"dear {step}" for step in range(4)]


@pytest.mark.parametrize("suffix", [".html", ".zip"])
def test_a_report_gives_its_turn_between_charts_to_a_run(monkeypatch, suffix):
    worker, done, heard = FairQueue(9), [], []
    monkeypatch.setattr(model_service, "_line", lambda _device: worker)
    monkeypatch.setattr("moeviz.report.page._chart", lambda *_given: "")
    monkeypatch.setattr("moeviz.report.all_charts._files", lambda *_given: ())

    def make(pause):
        def at_a_chart():
            done.append("chart")
            if not heard:
                heard.append(worker.ask(short("run", done), OTHER))
            pause()

        return export_for(f"report{suffix}").write(sample_trace(), pause=at_a_chart)

    assert model_service.report_maker(make)()
    assert done[:3] == ["chart", "run", "chart"]


def test_a_stranger_has_one_dear_work_at_a_time_and_then_rests_as_long_as_it_took():
    worker = FairQueue(QueueLimits(9, 9, 9, rest=1e6))
    pause = threading.Event()

    def dear(tell):
        tell(0)
        pause.wait(SECONDS)

    measured = worker.ask(in_steps(dear), ONE, dear=True)
    with pytest.raises(Busy):
        worker.check_dear(ONE)
    worker.check_dear(OTHER)
    pause.set()
    end_of(measured)
    until(lambda: ONE.visitor in worker._rested)
    with pytest.raises(Busy):
        worker.check_dear(ONE)
    worker.check_dear(OTHER)
    end_of(worker.ask(lambda _tell: "a prompt", ONE))
    worker._rested[ONE.visitor] = time.monotonic()  # it has rested
    worker.check_dear(ONE)
