"""Fixtures that any test may ask for. Without a GPU, Triton kernels run in Triton's interpreter. No network."""

import os
import random
import sys
import tempfile
from pathlib import Path

OFFLINE = Path(__file__).parent / "offline"
DOCS = Path(__file__).parent.parent / "docs"
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
os.environ["MOEVIZ_KEEP_TRACES"] = os.environ["MOEVIZ_ASK_TOKEN"] = "0"  # no test writes into its user's own folder
# What inductor compiled is kept from run to run, and compiled here: processes of its own would import torch first.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(__file__).parent.parent / "build" / "inductor"))
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

from contextlib import ExitStack
from dataclasses import replace

import pytest
from browser import chromium
from hypothesis import settings
from playwright.sync_api import sync_playwright
from servers import GATE, served
from tabs import KEY, Tabs, Visits, pytest_runtest_makereport  # noqa: F401

from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace

torch.set_num_threads(1)  # models are tiny here: several threads would spend their time waiting for each other
os.environ["OMP_NUM_THREADS"] = "1"  # the same for the processes that tests start
settings.register_profile("moeviz", deadline=None, max_examples=30, database=None, print_blob=True)
settings.load_profile("moeviz")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Draw the seed of Hypothesis here: all workers have the same, and a run can be repeated with it."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_report_header(config):
    return f"hypothesis: --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """Say at once what failed: a run that is cut off has no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        said = f"{report.nodeid}: {report.when} failed after {report.duration:.0f} s"
        sys.stderr.write(f"\n{said}\n{report.longreprtext}\n")


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from today's charts")


@pytest.fixture(autouse=True)
def no_outbound():
    """No test, and no process that one starts, may try to reach another host; whether it did is asked at the end."""
    log = Path(os.environ[offline.LOG])
    before = log.read_text() if log.exists() else ""
    yield
    after = log.read_text() if log.exists() else ""
    assert after == before, f"Asked another host: {after.removeprefix(before)}"


@pytest.fixture(autouse=True)
def no_run_of_another_test():
    """The app does the same run once for everybody; here, once for each test."""
    yield
    if (run_panel := sys.modules.get("moeviz_app.widgets.run_panel")) is not None:
        run_panel.forget()


@pytest.fixture(autouse=True)
def no_adapter_of_another_test():
    """A test, or an example of the docs, may register a reader of routers; the next test knows nothing of it."""
    yield
    if (known := sys.modules.get("moeviz.capture.routers.router_adapters")) is not None:
        for name in set(known.ROUTER_ADAPTERS) - set(known.BUILT_IN):
            del known.ROUTER_ADAPTERS[name]


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
    from plain_box import plain_box

    from moeviz_app.widgets.components import ask

    monkeypatch.setattr(ask, "draw", plain_box)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The app that most tests visit: as it is on one's own machine, and many tokens may be generated."""
    own = tmp_path_factory.mktemp("own")  # not the folder of whoever runs the tests
    more = {"MOEVIZ_MAX_NEW_TOKENS": "900", GATE: str(own / "gate")}
    with served(MOEVIZ_WARM_UP="1", MOEVIZ_HOME=str(own), **more) as running:
        yield running


@pytest.fixture
def serve():
    """Start the app with an environment of its own; it ends after the visitors of the test have gone."""
    with ExitStack() as running:
        yield lambda *given, **environment: running.enter_context(served(*given, **environment))


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        running = chromium(playwright)
        yield running
        running.close()


@pytest.fixture(scope="session")
def tabs(browser, request):
    """The tabs of a worker, which are kept from test to test."""
    request.config.stash[KEY] = Tabs(browser)
    return request.config.stash[KEY]


@pytest.fixture
def visit(tabs, serve, request):
    """Visitors of this test: each call is another one, and in none of their tabs may anything go wrong."""
    visits = Visits(tabs, lambda: request.getfixturevalue("server"))
    yield visits
    visits.leave(request.node.nodeid)


@pytest.fixture
def page(visit):
    return visit()


@pytest.fixture
def phone(visit):
    return visit(size="phone")
