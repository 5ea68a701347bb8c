"""The app's server with something added, for benchmarks: `python -m tests.attack.wrapped_server [--naive] OPTIONS`.

--naive    the same app as one would write it first: one lock around the model, no line, no turns, and garbage is
           collected among all that torch imported after every script.

All other options are those of `streamlit run`.
"""

import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.errors import as_sentence
from moeviz_app.jobs.fair_queue import Done

MAIN = Path(__file__).parents[2] / "app" / "moeviz_app" / "main.py"


def main() -> None:
    """Serve until somebody stops it."""
    options = sys.argv[1:]
    if "--naive" in options:
        options.remove("--naive")
        options += ["--runner.postScriptGC", "true"]  # Streamlit's default
        make_naive()
    sys.argv = ["streamlit", "run", str(MAIN), *options]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def make_naive() -> None:
    """One lock in place of the lines, and no freezing."""
    lock = threading.Lock()

    def run_on_model(name: str, how: model_catalog.LoadOptions, work: Callable[..., Any]) -> Iterator[Done]:
        loaded = model_service.model(name, how)
        with lock:
            try:
                yield Done(_to_the_end(work(loaded, lambda _news: None)))
            except Exception as error:
                raise as_sentence(error) from error

    model_service.run_on_model = run_on_model
    model_service._garbage.freeze = lambda: None


def _to_the_end(made: Any) -> Any:
    if not isinstance(made, Iterator):
        return made
    while True:
        try:
            next(made)
        except StopIteration as end:
            return end.value


if __name__ == "__main__":
    main()
