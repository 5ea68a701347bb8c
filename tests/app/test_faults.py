"""What goes wrong around a run, and what becomes of it: the table of docs/deployment.md, row by row."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from app_pages import first_page, run, sentences, visit_of
from servers import ROOT, free_port, started
from waiting import SECONDS

import moeviz
from moeviz_app.jobs import model_service
from moeviz_app.jobs.fair_queue import Busy
from tests.attack.tab import Tab, new_visitor, prompt_of

NOT_ENOUGH = (
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.mark.usefixtures("box_of_widgets")
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(NOT_ENOUGH)])
def test_an_allocator_that_fails_in_a_run_is_a_sentence_and_the_next_run_is_made(monkeypatch, trace, error):
    def fails(*_, **__):
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("moeviz.capture.trace.capture", fails)
        app = run(first_page(trace), "One day")
        assert "There was not enough memory in this run" in sentences(app) and not app.exception
        assert visit_of(app).trace is trace
    assert not run(app, "One day").exception
    assert visit_of(app).trace is not trace


@pytest.mark.usefixtures("box_of_widgets")
def test_an_allocator_that_fails_at_load_is_a_sentence_and_the_next_load_is_made(monkeypatch, trace):
    def fails(*_, **__):
        raise RuntimeError(NOT_ENOUGH)

    model_service.forget_models()
    with monkeypatch.context() as broken:
        broken.setattr(moeviz, "load_model", fails)
        app = run(first_page(trace), "One day")
        assert "There was not enough memory while embedded was being loaded" in sentences(app) and not app.exception
    assert not run(app, "One day").exception
    assert visit_of(app).trace is not trace


@pytest.mark.usefixtures("box_of_widgets")
def test_a_server_out_of_threads_is_a_sentence_and_the_next_run_is_made(monkeypatch, trace):
    model_service.model("embedded")
    start = threading.Thread.start

    def no_worker(thread):
        if thread.name == "moeviz-worker":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", no_worker)
        app = run(first_page(trace), "One day")
        assert "run out of threads" in sentences(app) and not app.exception
    assert not run(app, "One day").exception
    assert visit_of(app).trace is not trace


def command(port):
    return [sys.executable, "-m", "moeviz", "app", "--port", str(port), "--no-browser"]


def test_a_server_that_was_killed_with_tabs_open_serves_the_same_visitor_again():
    port, headers = free_port(), new_visitor()
    url, prompt = f"http://127.0.0.1:{port}", prompt_of(moeviz.load_model(), "Il fait froid.", 3)
    for how in (signal.SIGKILL, signal.SIGTERM):
        with started(command(port), url, ready_at="moeviz serves", environment={"MOEVIZ_WARM_UP": "0"}) as running:
            tab, other = Tab(url, headers), Tab(url, headers)
            for one in (tab, other):
                one.come()
            tab.run(prompt)
            other.press_run(prompt)  # and is cut off in the middle
            os.kill(running.process.pid, how)
            running.process.wait(SECONDS)


def test_two_tabs_of_one_visitor_run_at_once_and_each_is_shown_its_own_trace(server):
    model = moeviz.load_model()
    prompts = [prompt_of(model, text, 12) for text in ("One day", "Il fait froid, et")]
    headers = new_visitor()
    tabs = [Tab(server.url, headers) for _ in prompts]
    for tab in tabs:
        tab.come()
    for tab, prompt in zip(tabs, prompts, strict=True):
        tab.press_run(prompt)
    for tab, prompt in zip(tabs, prompts, strict=True):
        tab.finish()
        assert tab.trace == prompt.shown
    for tab in tabs:
        tab.__exit__(None, None, None)


def test_a_port_that_is_taken_is_named_and_nothing_is_served():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(command(port), capture_output=True, text=True, timeout=SECONDS, cwd=ROOT)
    assert ended.returncode != 0
    assert f"Port {port}" in ended.stdout + ended.stderr and "Traceback" not in ended.stderr


def test_a_line_is_free_again_when_its_thread_could_not_start(monkeypatch):
    line = model_service._line("cpu")

    def none(_thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", none)
        with pytest.raises(Busy):
            line.ask(lambda _tell: None)
    assert not line._jobs() and not line._running
