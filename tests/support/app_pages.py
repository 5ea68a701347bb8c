"""Pages of the app in Streamlit's own test harness, without a browser: open one, run a prompt, read what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from plain_box import RUN, TEXT
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import session
from moeviz_app.session.visit import KEY, Takes, Visit
from moeviz_app.views.menu import ROWS
from moeviz_app.widgets import near, pickers

is_near = near.is_near
near.is_near = lambda _name: True  # AppTest has no screen that anything could be far from
MAIN = Path(__file__).parents[2] / "app" / "moeviz_app" / "main.py"
SECONDS = 120
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![picture](http://example.com/x.png)",
    ":material/home:",
    "=1+1",
)
SAFE_ELEMENTS = {"text", "text_area", "code", "dataframe", "bidi_component", "vega_lite_chart"}


def first_page(trace: RoutingTrace | None = None) -> AppTest:
    """The app as it opens, with a trace on screen where one is given."""
    return opened(AppTest.from_file(str(MAIN), default_timeout=SECONDS), trace)


def page(path: str, trace: RoutingTrace | None = None, *args: str) -> AppTest:
    """A page by its function, as st.navigation would run it."""

    def script(path, args):
        from importlib import import_module

        module, function = path.rsplit(".", 1)
        getattr(import_module(module), function)(*args)

    return opened(
        AppTest.from_function(script, default_timeout=SECONDS, args=(path, args)), trace, taken_by(path, args)
    )


def script_of(function: Callable[[], None]) -> AppTest:
    """A function as a script of Streamlit's, which has as long as other waits of tests: its own limit is 3 seconds."""
    return AppTest.from_function(function, default_timeout=SECONDS)


def taken_by(path: str, args: tuple[str, ...] = ()) -> Takes:
    """The subject that the page of that function takes, as the menu declares it."""
    name = path.rpartition(".")[2]
    for row in ROWS.values():
        draw = getattr(row.draw, "func", row.draw)
        if draw.__name__ == name and getattr(row.draw, "args", ())[:1] == args[:1]:
            return row.takes or Takes()
    return Takes()


def topic_page(topic: str, trace: RoutingTrace | None = None, subject: str | None = None) -> AppTest:
    app = page("moeviz_app.views.topic.topic_page", trace, topic)
    return app if subject is None else look_at(app, subject)


def traces_page(trace: RoutingTrace | None = None) -> AppTest:
    return page("moeviz_app.views.traces.traces_page", trace)


def opened(app: AppTest, trace: RoutingTrace | None, takes: Takes | None = None) -> AppTest:
    if takes is not None:
        visit_of(app).takes = takes
    if trace is not None:
        layers = trace.model.layers
        visit_of(app).trace = trace
        visit_of(app).insists_on.add((visit_of(app).takes, "trace"))
        for key, value in {
            session.LAYER: layers[0],
            session.FIRST_LAYER: layers[0],
            session.SECOND_LAYER: layers[-1],
        }.items():
            app.session_state[key] = value
    return app.run()


def look_at(app: AppTest, subject: str) -> AppTest:
    """The page, with another subject chosen; also one of which it would show little."""
    visit = visit_of(app)
    visit.subject = subject
    visit.insists_on.add((visit.takes, subject))
    return app.run()


def visit_of(app: AppTest) -> Visit:
    """Return the state of the visit that a page belongs to, also before the page is drawn."""
    if KEY not in app.session_state:
        app.session_state[KEY] = Visit()
    return app.session_state[KEY]


def run(app: AppTest, prompt: str) -> AppTest:
    app.text_area(key=TEXT).set_value(prompt)
    return app.button(key=RUN).click().run()


def pictures(app: AppTest) -> int:
    return len(app.get("vega_lite_chart"))


def sentences(app: AppTest) -> str:
    return "\n".join(text.value for text in app.text)


def drawn(app: AppTest, key: str) -> dict:
    """What the page gives to the component of that key; `strip` on pages of topics, `explorer` on the first."""
    (found,) = (node for node in app.get("bidi_component") if node.proto.id.endswith(f"-{key}"))
    return json.loads(found.proto.json)


WHAT_IF, COMPARE = "what-if", "compare"


def visit(path: str, **query: str) -> AppTest:
    """A fresh visitor who opens a link to that page."""
    return go_to(AppTest.from_file(str(MAIN), default_timeout=SECONDS), path, **query)


def go_to(app: AppTest, path: str, **query: str) -> AppTest:
    """The same visitor on another page."""
    # The pages of st.navigation are functions, which AppTest.switch_page cannot name; and it drops the query.
    app._page_hash = app._finished_page_script_hash = calc_hash(path)
    app.query_params.clear()
    app.query_params.update(query)
    app.run()
    assert not app.exception
    return app


def address(app: AppTest) -> dict[str, str]:
    return visit_of(app).address


def pair(first: RunRequest | dict[str, str], second: RunRequest | dict[str, str]) -> dict[str, str]:
    """The query of a link that compares two runs."""
    runs = [run.parameters() if isinstance(run, RunRequest) else run for run in (first, second)]
    return dict(zip(pickers.SIDES, map(urlencode, runs), strict=True))
