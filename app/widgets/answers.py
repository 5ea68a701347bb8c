"""What pages ask of datasets, worked out in the background, in fair turns, and kept for whoever asks the same.

An answer takes milliseconds where the small tables of a dataset have it, and longer where rows of it are read.
A page asks all its questions at once, draws what is there within a second, and looks again for the rest.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import streamlit as st
from moeviz_app.jobs import model_service
from moeviz_app.jobs.background import Background
from moeviz_app.jobs.render_lock import released
from moeviz_app.session import session
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.run_panel import waiting_words

from moeviz.errors import MoevizError

OnProgress = Callable[[int, int], None]
Make = Callable[[OnProgress], pd.DataFrame]
MOST_BYTES = 256 * 2**20  # of what is kept
AT_ONCE = 1.0  # seconds that a page waits for its answers before it says that they are on their way
LOOK, BETWEEN_LOOKS = 0.01, 0.7  # seconds
JOB = "questions about a dataset"  # one at a time: a visitor's own
_kept: OrderedDict[Hashable, tuple[pd.DataFrame, int]] = OrderedDict()  # with their bytes, the oldest first
_guard = threading.Lock()


@dataclass(slots=True, eq=False)
class _Batch:
    """The questions of a page that are on their way; what was wrong with some of them."""

    keys: frozenset[Hashable]
    work: Background
    wrong: dict[Hashable, MoevizError] = field(default_factory=dict)
    stopped: bool = False


class Answers:
    """The questions of one page, by what tells them apart; asked when it is made."""

    def __init__(self, questions: Mapping[Hashable, Make]) -> None:
        self._until = time.monotonic() + AT_ONCE
        self._lacking: list[Hashable] = []  # what the page has said is on its way
        self._job: _Batch | None = session.result(JOB)
        missing = {key: make for key, make in questions.items() if _known(key) is None}
        if not missing:
            return
        if self._job is None or not missing.keys() <= self._job.keys or self._gone(missing):
            if self._job is not None:
                self._job.work.stop()
            self._job = _begin(missing)
            session.keep_result(JOB, self._job)

    def _gone(self, missing: Mapping[Hashable, Make]) -> bool:
        """Whether the job is over, and what it found was put away since, or is not there because it failed."""
        try:
            return self._job.work.found is not None and any(key not in self._job.wrong for key in missing)
        except (
            Exception
        ):  # of any kind: work that failed is asked for anew, and what failed is raised where it is drawn
            return True

    def get(self, key: Hashable) -> pd.DataFrame | None:
        """The answer; None where it is not there yet. Raises what is wrong with the question."""
        if (found := self._within(key)) is None:
            self._lacking.append(key)
        return found

    def _within(self, key: Hashable) -> pd.DataFrame | None:
        with released():
            while True:
                found, job = _known(key), self._job
                if found is not None:
                    return found
                if job is None or job.stopped or key not in job.keys:
                    return None
                if key in job.wrong:
                    raise job.wrong[key]
                if job.work.found is not None or time.monotonic() > self._until:
                    return _known(key)
                time.sleep(LOOK)

    def watch(self) -> None:
        """How far the rest is, and Stop; the page is drawn anew whenever something of it is there."""
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
                elif all(key in job.wrong or _known(key) is not None for key in self._lacking):
                    st.rerun()  # the last of them came while the page was drawn
                else:
                    say("These answers are too large to be kept together. Ask for fewer layers.")


def _begin(missing: Mapping[Hashable, Make]) -> _Batch:
    wrong: dict[Hashable, MoevizError] = {}

    def piece(key: Hashable, make: Make) -> Callable:
        def work(tell: Callable) -> None:
            if _known(key) is None:  # somebody else may have asked the same meanwhile
                try:
                    _keep(key, make(lambda read, of: tell((read, of))))
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


def _known(key: Hashable) -> pd.DataFrame | None:
    with _guard:
        if key not in _kept:
            return None
        _kept.move_to_end(key)
        return _kept[key][0]


def _keep(key: Hashable, found: pd.DataFrame) -> None:
    with _guard:
        _kept[key] = found, int(found.memory_usage(deep=True).sum())
        while len(_kept) > 1 and sum(size for _, size in _kept.values()) > MOST_BYTES:
            _kept.popitem(last=False)


def forget() -> None:
    """Put all of it away: for tests."""
    with _guard:
        _kept.clear()
