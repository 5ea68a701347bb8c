"""The models in memory: loaded once, one budget a device, the least lately used goes first, and one at work stays."""

import gc
import threading
import weakref

import pytest
from waiting import SECONDS

from moeviz.capture.models import memory
from moeviz.errors import CaptureError, ModelNotFound, MoevizError
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.errors import RunFailed
from moeviz_app.jobs.model_cache import SECONDS_FROZEN, Garbage, ModelBackend, ModelCache, ModelKey
from moeviz_app.jobs.model_catalog import call_with_timeout

A, B, C = (ModelKey(name, "float32", "cpu") for name in "abc")


class Machine:
    """A machine whose models take 10 bytes each, and what was done on it."""

    def __init__(self, budget=None, free=None):
        self.loaded, self.room = [], free
        ways = ModelBackend(self.load, lambda _wanted: 10, lambda _device: self.room, self.let_go, budget)
        self.models = ModelCache(ways)

    def load(self, wanted):
        self.loaded.append(wanted.name)
        if self.room is not None:
            self.room -= 10
        return object()

    def let_go(self):
        if self.room is not None:
            self.room += 10


def test_a_model_is_loaded_once():
    machine = Machine()
    assert machine.models.get(A) is machine.models.get(A) is machine.models.peek(A)
    assert machine.loaded == ["a"]


def test_visitors_who_ask_at_once_wait_for_one_load():
    machine, go, begun, got = Machine(), threading.Event(), threading.Event(), []

    def slow(wanted):
        begun.set()
        go.wait(SECONDS)
        return Machine.load(machine, wanted)

    machine.models.ways = ModelBackend(slow, lambda _wanted: 10, lambda _device: None, lambda: None)
    threads = [threading.Thread(target=lambda: got.append(machine.models.get(A))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert begun.wait(SECONDS)
    go.set()
    for thread in threads:
        thread.join(SECONDS)
    assert machine.loaded == ["a"] and len(got) == 5 and len(set(map(id, got))) == 1


@pytest.mark.parametrize("limits", [{"budget": 25}, {"free": 25}])
def test_the_least_lately_used_goes_where_another_needs_room(limits):
    machine = Machine(**limits)
    for wanted in (A, B, A, C):
        machine.models.get(wanted)
    assert machine.models.peek(B) is None
    assert machine.models.peek(A) and machine.models.peek(C)


def test_a_model_whose_run_failed_is_free_to_go_again():
    machine = Machine(budget=10)
    with pytest.raises(ZeroDivisionError), machine.models.at_work(A):
        raise ZeroDivisionError
    machine.models.get(B)
    assert machine.models.peek(A) is None and machine.models.peek(B)


def test_each_device_has_a_budget_of_its_own():
    machine = Machine(budget=10)
    machine.models.get(A)
    machine.models.get(ModelKey("a", "float32", "cuda:0"))
    assert machine.models.peek(A)


def test_a_model_at_work_stays_and_the_other_is_told_to_try_later():
    machine = Machine(budget=10)
    with machine.models.at_work(A) as loaded:
        with pytest.raises(CaptureError, match=r"b .* of .*\."):
            machine.models.get(B)
        assert machine.models.peek(A) is loaded
    machine.models.get(B)
    assert machine.models.peek(A) is None


def test_a_model_that_never_fits_is_refused_with_both_figures():
    for limits, says in (({"budget": 5}, "models may take 0.0 GB here"), ({"free": 5}, "0.0 GB are free here")):
        with pytest.raises(CaptureError, match=says):
            Machine(**limits).models.get(A)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_an_allocator_that_fails_at_load_is_told_in_a_sentence_and_the_next_load_is_made(error):
    machine = Machine()

    def fails(_wanted):
        raise error

    ways = machine.models.ways
    machine.models.ways = ModelBackend(fails, ways.needed, ways.free, ways.let_go)
    with pytest.raises(RunFailed, match="memory"):
        machine.models.get(A)
    machine.models.ways = ways
    assert machine.models.get(A)


def test_two_ways_to_ask_for_the_same_model_are_one(monkeypatch):
    """float32 is what the embedded model is opened in, and the processor is where there is no GPU."""
    monkeypatch.setattr(memory.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(model_service, "_named", {})
    ways = [
        model_catalog.DEFAULT_LOAD,
        model_catalog.LoadOptions("float32"),
        model_catalog.LoadOptions(None, "cpu"),
        model_catalog.LoadOptions("float32", "auto"),
    ]
    assert len({model_service._wanted("embedded", how) for how in ways}) == 1
    assert model_service._wanted("embedded", model_catalog.LoadOptions("bfloat16")) != model_service._wanted(
        "embedded", model_catalog.DEFAULT_LOAD
    )


def test_all_ways_to_open_a_model_on_a_device_share_one_line(monkeypatch):
    monkeypatch.setattr(memory.torch.cuda, "device_count", lambda: 0)
    hows = [
        model_catalog.LoadOptions(dtype, device)
        for dtype in (None, "float32", "bfloat16")
        for device in (None, "auto", "cpu")
    ]
    assert len({model_service._line(model_catalog.device(how)) for how in hows}) == 1


def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(memory.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(model_service, "_load", pytest.fail)
    with pytest.raises(CaptureError, match=r"cuda:0.*GPU"):
        model_service.model("embedded", model_catalog.LoadOptions(None, "cuda:0"))
    monkeypatch.setattr(memory.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(CaptureError, match=r"cuda:0.*cuda:1"):
        memory.device_of("cuda:2")
    assert [memory.device_of(name) for name in ("cuda:1", "cpu", None)] == ["cuda:1", "cpu", "auto"]


def test_clearing_streamlit_s_cache_takes_models_and_lines_from_nobody(monkeypatch):
    import streamlit as st

    loaded, line = model_service.model("embedded"), model_service._line("cpu")
    st.cache_resource.clear()
    st.cache_data.clear()
    monkeypatch.setattr(model_service, "_load", pytest.fail)
    assert (
        model_service.model("embedded") is loaded
        and model_service._line("cpu") is line
        and model_catalog.torch_is_here()
    )


def test_what_a_visitor_had_when_all_was_frozen_is_found_once_it_is_garbage():
    class Session:
        """What refers to itself, as a session and its script do."""

    now = [0.0]
    garbage, session = Garbage(clock=lambda: now[0]), Session()
    session.itself, seen = session, weakref.ref(session)
    try:
        garbage.freeze()
        del session
        now[0] = SECONDS_FROZEN
        garbage.look_again()
        gc.collect()
        assert seen() is not None, "the control: what is frozen is not looked through"
        now[0] += 1
        garbage.look_again()
        assert seen() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_a_forked_process_writes_to_nothing_that_was_frozen_before_until_a_model_is_to_go():
    class Cycle:
        """What refers to itself, and is found by a walk through all objects alone."""

        def __init__(self) -> None:
            self.itself = self

    garbage, shared, seen = Garbage(forked=True), Cycle(), {}
    seen["shared"] = weakref.ref(shared)
    try:
        gc.freeze()
        del shared
        garbage.freeze()
        later = Cycle()
        seen["later"] = weakref.ref(later)
        garbage.freeze()
        del later
        garbage.freeze()
        assert seen["later"]() is None, "what comes after the first model is looked through"
        assert seen["shared"]() is not None, "what was frozen before is not"
        garbage.freeze(thaw=True)
        assert seen["shared"]() is None and gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_a_look_up_that_takes_long_ends_with_a_sentence_and_others_go_on_meanwhile():
    go = threading.Event()
    try:
        with pytest.raises(ModelNotFound, match=r"'some/model'.*0\.01"):
            call_with_timeout("some/model", lambda: go.wait(SECONDS), 0.01)
        assert call_with_timeout("other", lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            call_with_timeout("other", lambda: 1 / 0)
    finally:
        go.set()


def test_no_more_look_ups_are_begun_than_there_are_places(monkeypatch):
    monkeypatch.setattr(model_catalog, "_places", threading.BoundedSemaphore(1))
    go = threading.Event()
    with pytest.raises(ModelNotFound):
        call_with_timeout("some/model", lambda: go.wait(SECONDS), 0.01)
    with pytest.raises(MoevizError, match="being looked up already"):
        call_with_timeout("other", lambda: 7)
    go.set()


def test_a_hub_that_does_not_answer_holds_nobody_up_who_asks_for_another_model(monkeypatch):
    """The look-up is outside the lock under which sizes are counted."""
    from moeviz.capture.models import load

    go, asked, real = threading.Event(), threading.Event(), load.model_config

    def slow(name, *more):
        if name == "some/model":
            asked.set()
            go.wait(SECONDS)
            raise ModelNotFound("no such model")
        return real(name, *more)

    def asks():
        with pytest.raises(ModelNotFound, match="no such model"):
            model_catalog.facts_of_any("some/model")

    monkeypatch.setattr(load, "model_config", slow)
    model_catalog.facts_of_any.clear()
    model_catalog.config_of.clear()
    waits = threading.Thread(target=asks)
    waits.start()
    assert asked.wait(SECONDS)
    assert model_catalog.facts_of_any("embedded").num_experts
    go.set()
    waits.join(SECONDS)
