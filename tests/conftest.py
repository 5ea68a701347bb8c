"""Fixtures that any test may ask for. Without a GPU, Triton kernels run in Triton's interpreter. No network."""

import os
import sys
import tempfile
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
sys.path.insert(0, str(OFFLINE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
os.environ["MOEVIZ_OUTBOUND"] = str(Path(tempfile.mkdtemp(prefix="moeviz-tests-")) / "outbound")
import sitecustomize as offline  # tests/offline/sitecustomize.py, which the processes that tests start import too
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are imported, so it is set first
# So are the app's settings, when its first file is imported.
os.environ["MOEVIZ_WARM_UP"] = "0"  # no thread beside a test may load a model
os.environ["MOEVIZ_SERVE"] = "private"  # as `moeviz app`; what others are refused is tested by name
os.environ["MOEVIZ_KEEP_TRACES"] = "0"  # no test writes into the folder of whoever runs it

from dataclasses import replace

import pytest
from browser import SIZES, chromium, served, watched
from hypothesis import settings
from playwright.sync_api import sync_playwright

from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace

torch.set_num_threads(1)  # models are tiny here: several threads would spend their time waiting for each other
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the processes that tests start
settings.register_profile("moeviz", deadline=None, derandomize=True, max_examples=30, database=None)
settings.load_profile("moeviz")
LONG = ("browser", "training", "survey", "package", "docs")


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from today's charts")


def pytest_collection_modifyitems(items):
    """Files with long tests first: workers that take file by file then end at about the same time."""
    long = {item.path for item in items if any(item.get_closest_marker(name) for name in LONG)}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def no_outbound():
    """No test, and no process that one starts, may try to reach another host; whether it did is asked at the end."""
    log = Path(os.environ[offline.LOG])
    before = log.read_text() if log.exists() else ""
    yield
    after = log.read_text() if log.exists() else ""
    assert after == before, f"Asked another host: {after.removeprefix(before)}"


@pytest.fixture
def trace() -> RoutingTrace:
    return sample_trace()


@pytest.fixture
def ids_only_trace(trace) -> RoutingTrace:
    """What a vLLM server gives: expert ids, no weights, no logits."""
    return replace(trace, weights=None, logits=None)


@pytest.fixture
def box_of_widgets(monkeypatch):
    """Streamlit's AppTest runs no JavaScript: the prompt box is plain widgets, which do what the box does."""
    from moeviz_app.components import ask
    from plain_box import plain_box

    monkeypatch.setattr(ask, "draw", plain_box)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    own = str(tmp_path_factory.mktemp("own"))  # not the folder of whoever runs the tests
    more = {"MOEVIZ_MAX_NEW_TOKENS": "900"}  # enough for a run to be stopped
    with served(MOEVIZ_WARM_UP="1", MOEVIZ_HOME=own, **more) as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        running = chromium(playwright)
        yield running
        running.close()


@pytest.fixture
def page(server, browser):
    yield from watched(server, browser, **SIZES["desktop"])


@pytest.fixture
def phone(server, browser):
    yield from watched(server, browser, **SIZES["phone"])
