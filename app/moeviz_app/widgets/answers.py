"""Answers to what pages ask of datasets: computed in the background, in fair turns, and cached for all.

An answer takes milliseconds where the small tables of a dataset have it, and longer where rows of it are read.
A page asks all its questions at once, draws what is there within a second, and looks again for the rest.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import streamlit as st

from moeviz.charts.chart import Chart
from moeviz.errors import DamagedShard, MoevizError
from moeviz.model_info import ModelInfo
from moeviz_app import settings
from moeviz_app.jobs import model_service
from moeviz_app.jobs.background import Background
from moeviz_app.jobs.render_lock import released
from moeviz_app.jobs.result_cache import ResultCache
from moeviz_app.session import datasets, session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.widgets.chart_panel import Lacking, heading, tell_once
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.run_panel import waiting_words

OnProgress = Callable[[int, int], None]
Make = Callable[[OnProgress], pd.DataFrame]
AT_ONCE = 1.0  # seconds that a page waits for its answers before it says that they are on their way
LOOK, BETWEEN_LOOKS = 0.01, 0.7  # seconds
READING = "Being read …"
JOB = "questions about a dataset"  # one at a time: a visitor's own
_kept: ResultCache[pd.DataFrame] = ResultCache(256 * 2**20 // settings.SETTINGS.processes)


@dataclass(slots=True, eq=False)
class _Batch:
    """The questions of a page that are on their way; what was wrong with some of them."""

    keys: frozenset[Hashable]
    work: Background
    wrong: dict[Hashable, MoevizError] = field(default_factory=dict)
    stopped: bool = False


class Answers:
    """The questions of one page, by their keys; asked when it is made."""

    def __init__(self, questions: Mapping[Hashable, Make]) -> None:
        self._until = time.monotonic() + AT_ONCE
        self._lacking: list[Hashable] = []  # questions that the page has announced as on their way
        self._told: Lacking = {}
        self._job: _Batch | None = session.result(JOB)
        missing = {key: make for key, make in questions.items() if _kept.get(key) is None}
        if not missing:
            return
        if self._job is None or not missing.keys() <= self._job.keys or self._is_lost(missing):
            if self._job is not None:
                self._job.work.stop()
            self._job = _begin(missing)
            session.keep_result(JOB, self._job)

    def _is_lost(self, missing: Mapping[Hashable, Make]) -> bool:
        """Return whether the job is over, and its result was dropped since, or is missing because it failed."""
        try:
            return self._job.work.found is not None and any(key not in self._job.wrong for key in missing)
        except Exception:  # work that failed is asked for anew; what failed is raised where it is drawn
            return True

    def get(self, key: Hashable) -> pd.DataFrame | None:
        """Return the answer; None if it is not there yet. Raises what is wrong with the question."""
        if (found := self._within(key)) is None:
            self._lacking.append(key)
        return found

    def drawn(self, key: Hashable, model: ModelInfo, chart: Chart | None = None) -> pd.DataFrame | None:
        """Return the answer; None if the page has explained, under the chart's question, why it has none. Raises
        only `DamagedShard`: see `damage`.
        """
        frame = None
        with explained(partial(tell_once, chart, model, self._told) if chart else say, but=(DamagedShard,)):
            frame = self.get(key)
            if frame is None:
                if chart:
                    heading(chart, model)
                st.text(READING)
        return frame

    def _within(self, key: Hashable) -> pd.DataFrame | None:
        with released():
            while True:
                found, job = _kept.get(key), self._job
                if found is not None:
                    return found
                if job is None or job.stopped or key not in job.keys:
                    return None
                if key in job.wrong:
                    raise job.wrong[key]
                if job.work.found is not None or time.monotonic() > self._until:
                    return _kept.get(key)
                time.sleep(LOOK)

    def watch(self) -> None:
        """Draw the progress of the rest, and Stop; the page is drawn anew whenever an answer arrives."""
        job = self._job
        if job is None or job.stopped:
            if job is not None and st.button("Read on", key="read on"):
                session.forget_result(JOB)
                st.rerun()
            return
        if self._lacking:
            with explained():
                if job.work.found is None:
                    st.fragment(_watch, run_every=BETWEEN_LOOKS)(job, job.work.done)
                elif all(key in job.wrong or _kept.get(key) is not None for key in self._lacking):
                    st.rerun()  # the last of them came while the page was drawn
                else:
                    say("These answers are too large to be kept together. Ask for fewer layers.")


def whole(shown: ShownDataset) -> bool:
    """Return whether it can be read; else the page has explained why, with a button that reads the rest."""
    if shown.why_not:
        _offer_the_rest(shown, shown.why_not, None)
    elif not shown.dataset.tokens:
        say("This dataset has no tokens, so there is nothing to draw.")
    return not shown.why_not and bool(shown.dataset.tokens)


def damage(shown: ShownDataset, error: DamagedShard) -> None:
    """Say that a shard turned out to be damaged when it was read, with a button that reads the rest."""
    _offer_the_rest(shown, f"{error} The rest is read if you ask for it.", error)


def _offer_the_rest(shown: ShownDataset, sentence: str, error: DamagedShard | None) -> None:
    say(sentence)
    st.button("Read the rest", key="read the rest", on_click=datasets.read_the_rest, args=(shown, error))


def _begin(missing: Mapping[Hashable, Make]) -> _Batch:
    wrong: dict[Hashable, MoevizError] = {}

    def piece(key: Hashable, make: Make) -> Callable:
        def work(tell: Callable) -> None:
            if _kept.get(key) is None:  # somebody else may have asked the same meanwhile
                try:
                    found = make(lambda read, of: tell((read, of)))
                    _kept.put(key, found, int(found.memory_usage(deep=True).sum()))
                except MoevizError as error:
                    wrong[key] = error

        return work

    pieces = [piece(key, make) for key, make in missing.items()]
    return _Batch(frozenset(missing), Background(model_service.dataset_runner(), pieces), wrong)


def _watch(job: _Batch, had: int) -> None:
    with explained():
        if job.work.found is not None or job.work.done != had:
            st.rerun(scope="app")
        read, of = job.work.news or (0, 1)
        words = f"The dataset is being read: {job.work.done} of {job.work.total} questions are answered"
        share = (job.work.done + read / max(of, 1)) / job.work.total
        st.progress(min(share, 1.0), waiting_words(job.work.ahead, words))
        if st.button("Stop", key="stop reading", help="What is drawn already stays."):
            job.work.stop()
            job.stopped = True
            st.rerun(scope="app")


def forget() -> None:
    """Put all of it away: for tests."""
    _kept.clear()
