"""Streams of one model whose generations decode in one batch, each recorded as if it ran by itself.

A stream reads its prompt by itself, joins between two tokens, and leaves at its end, or when nobody goes on with it.
Whoever asks for a token that is not there lets the model read one token of every row. Each visitor keeps their own seed
and sampling, stop tokens, length, recording and errors. If a batch fails, its rows go on one by one.

Only models for which a trial has shown that rows do not depend on each other take part; all other streams take turns.
"""

import logging
import threading
from collections.abc import Hashable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList

from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.patching import is_compiled
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.hooks import Recording, exclusive, hooks_of, shares_of_rows
from moeviz.capture.record.next_tokens import NextTokenRecord, next_tokens_hooks, next_tokens_recorded
from moeviz.capture.recorders import CaptureJob, record_with_hooks, wants_kernels
from moeviz.capture.run.batch import DecodingBatch, why_no_batch
from moeviz.capture.run.decoding import Sampling, sampling_processors
from moeviz.capture.run.generation import DEVICES, Throttle, decode, generated_tokens
from moeviz.capture.run.generation_plan import plan_for
from moeviz.capture.run.prompts import Batch, ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.routing_trace import RoutingTrace
from moeviz.text import cut

log = logging.getLogger("moeviz.capture")
MOST_BYTES = 256 * 2**20  # of the keys and values of one batch, with padding, at its longest
TOLERANCE = 1e-4  # of the largest weight or logit of a trace: how far a row may differ in a batch and by itself
TRIAL_TOKENS = 4


@dataclass(slots=True, eq=False)
class _Row:
    """One stream's generation."""

    job: CaptureJob
    recording: Recording
    following: NextTokenRecord | None
    processors: LogitsProcessorList
    ids: Tensor  # (1, prompt and drawn tokens)
    has_news: bool = False  # a token that its stream was not given yet
    has_ended: bool = False
    error: Exception | None = None
    group: "_Group" = field(init=False)  # that it decodes with

    @property
    def longest(self) -> int:
        """Return its number of tokens at the end."""
        return self.job.run.batch.input_ids.shape[1] + self.job.plan.max_new_tokens

    def draw(self, logits: Tensor) -> None:
        """Draw a token from logits (1, V). Errors are raised by the row's own stream."""
        self.has_news = True
        try:
            scores = logits.to(copy=True, dtype=torch.float32)
            token = cast(Any, self.processors)(self.ids, scores).argmax(-1)
        except Exception as error:  # of any kind
            self.error, self.has_ended = error, True
            return
        self.ids = torch.cat([self.ids, token[:, None]], dim=1)
        stops = self.job.run.model.generation_config.eos_token_id
        is_stop = stops is not None and int(token) in (stops if isinstance(stops, list) else [stops])
        self.has_ended = is_stop or self.ids.shape[1] == self.longest

    def trace(self) -> RoutingTrace:
        run, plan = self.job.run, self.job.plan
        drawn = self.ids[:, run.batch.input_ids.shape[1] :]
        recording = replace(self.recording, following=self.following)
        return assemble(recording, run, generated_tokens(run.model, drawn, None, plan))

    @property
    def kind(self) -> Hashable:
        """Return the kind of its recording: one batch has rows of one kind."""
        lens = None if self.following is None else len(self.following.lens)
        return self.recording.site, self.recording.keep_logits, lens


@dataclass(slots=True, eq=False)
class _Group:
    """Rows that decode together, in the order of their batch."""

    rows: list[_Row]
    batch: DecodingBatch

    def step(self) -> None:
        """Let the model read the newest token of each row, and draw each row's next. Unchanged if that fails."""
        model, rows = self.batch.model, list(self.rows)
        recording, following = rows[0].recording.blank(), rows[0].following
        following = None if following is None else following.blank()
        with hooks_of(model, recording), nullcontext() if following is None else next_tokens_hooks(following):
            batch, logits = self.batch.read(torch.cat([row.ids[:, -1:] for row in rows]))
        given = shares_of_rows(recording, [row.recording for row in rows])
        if following is not None:
            given += following.shares_of_rows([row.following for row in rows if row.following is not None])
        for place, what in given:
            place.append(what)
        self.batch = batch
        for row, scores in zip(rows, logits.split(1), strict=True):
            row.draw(scores)
        self.let_go()

    def let_go(self) -> None:
        """Drop rows that ended or were left."""
        stay = [place for place, row in enumerate(self.rows) if not row.has_ended]
        if len(stay) < len(self.rows):
            self.rows = [self.rows[place] for place in stay]
            self.batch = self.batch.only(stay) if stay else DecodingBatch.empty(self.batch.model)


class SharedDecoding:
    """The streams of one model that decode together. Threads may share it; one of them at a time uses the model."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._groups: dict[Hashable, _Group] = {}  # by kind of row: those that take others
        self._lock = threading.Lock()

    @property
    def bytes_held(self) -> int:
        """Bytes of keys and values of the rows that decode together now, padding included."""
        return sum(group.batch.bytes_of(len(group.rows), group.batch.mask.shape[1]) for group in self._groups.values())

    def takes(self, job: CaptureJob) -> bool:
        """Return whether this is one sequence that is drawn token by token, and recorded with hooks."""
        with_defaults = replace(
            job.request,
            prompts=_PLAIN.prompts,
            token_ids=None,
            max_new_tokens=0,
            sampling=Sampling(),
            kernels=False,
            keep_logits=True,
            site=None,
            chat=False,
            system=None,
            next_tokens=False,
        )
        return (
            with_defaults == _PLAIN  # what is not named here keeps its own turns
            and job.request.max_new_tokens > 0
            and len(job.run.batch.input_ids) == 1
            and not wants_kernels(job)
            and not any(map(torch.is_autocast_enabled, DEVICES))
            and not is_compiled(job.run.model)
        )

    def stream(self, job: CaptureJob, seconds_between: float = 0.0) -> Iterator[RoutingTrace]:
        """Yield the growing trace as `capture_growing` does, but once for all tokens that are new.

        Raises what `trace` raises.
        """
        model, throttle, row = job.run.model, Throttle(seconds_between), None
        try:
            while row is None or row.has_news or not row.has_ended:
                with exclusive(model):
                    if row is None:
                        row = self._begin(job)
                    elif not row.has_news:
                        self._step_group(row)
                    row.has_news = False
                    if row.error is not None:
                        raise row.error
                    grown = throttle.latest(row.trace, len(row.group.rows))
                yield grown
            if throttle.stale:
                yield row.trace()
        finally:
            if row is not None:
                self._leave(row)

    def _begin(self, job: CaptureJob) -> _Row:
        """Read the prompt by itself, and join a group if there is one."""
        run = job.run
        with record_with_hooks(job) as so_far, next_tokens_recorded(run, job.request) as following:
            batch, logits = DecodingBatch.empty(run.model).read(run.batch.input_ids)
            row = _Row(job, so_far(), following, sampling_processors(job.plan.sampling), run.batch.input_ids)
        row.group = _Group([row], batch)
        row.draw(logits)
        if not row.has_ended:
            with self._lock:
                self._seat(row)
        return row

    def _seat(self, row: _Row) -> None:
        """Put a row into a group of its kind, if there is memory for its keys and values."""
        batch = row.group.batch
        if not batch.takes_others:
            return
        others = self._groups.setdefault(row.kind, row.group)
        if others is row.group:
            return
        longest = max(row.longest, *(other.longest for other in others.rows))
        if batch.bytes_of(len(others.rows) + 1, longest) <= self.most_bytes:
            others.rows.append(row)
            others.batch, row.group = others.batch.joined(batch), others

    def _step_group(self, row: _Row) -> None:
        """Draw a token for this row and those that decode with it. If that fails, each row goes on by itself."""
        with self._lock:
            try:
                row.group.step()
            except Exception as error:  # of any kind: alone, it is raised again in the stream whose it is
                if len(row.group.rows) == 1:
                    raise
                log.warning("A batch of %d rows failed (%r); each goes on by itself.", len(row.group.rows), error)
                self._part(row.group)
                row.group.step()
            self._tidy()

    def _part(self, group: _Group) -> None:
        alone = [_Group([row], group.batch.only([place])) for place, row in enumerate(group.rows)]
        for row, own in zip(group.rows, alone, strict=True):
            row.group = own
        group.rows = []
        self._tidy()

    def _leave(self, row: _Row) -> None:
        """Free a row's place. If Python closes a stream in the middle of a step, the place is freed after the step."""
        row.has_ended = True
        if self._lock.acquire(blocking=False):
            try:
                row.group.let_go()
                self._tidy()
            finally:
                self._lock.release()

    def _tidy(self) -> None:
        self._groups = {kind: group for kind, group in self._groups.items() if group.rows}


_PLAIN = CaptureRequest(("any text",), kernels=False)
_shared: WeakKeyDictionary[nn.Module, SharedDecoding] = WeakKeyDictionary()


def share_decoding(model: LoadedModel, most_bytes: int = MOST_BYTES) -> str:
    """Let streams of a model decode together from here on; if they cannot, return why, in a sentence.

    most_bytes  of the keys and values of one batch, with padding, at its longest. A stream that does not fit goes on by
                itself.

    `moeviz.stream` and `capture_growing` then share it: each stream gives what it gives by itself, except for the last
    digits of float32, by which rows of a batch may differ. Interventions, kernels, beams, several texts and the
    checkpoint's own settings still take turns.
    """
    run = prepare(model, CaptureRequest((), token_ids=((0,),)))
    why_not = why_no_batch(run.model) or _why_not_alike(run)
    if not why_not:
        _shared[run.model] = SharedDecoding(most_bytes)
    return why_not


def shared_decoding(model: nn.Module) -> SharedDecoding | None:
    """Return what the streams of a model share; None if they take turns."""
    return _shared.get(model)


def _why_not_alike(run: ModelInput) -> str:
    """Return why rows of a batch of this model differ from a run by itself, found by a trial; "" if they do not.

    Rows are of two lengths, and join at two times. Several are equal and choose equal experts, so that an expert with a
    capacity would drop some of their tokens.
    """
    vocabulary = run.model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (8,), generator=torch.Generator().manual_seed(0)).tolist()
    name = type(run.model).__name__
    try:
        jobs = [_trial(run, ids[:2]), _trial(run, ids[2:])]
        alone, shared, which = [_run_alone(job) for job in jobs], SharedDecoding(), (0, 1, 1, 1, 1)
        streams = [shared.stream(jobs[one]) for one in which]
        grown = [[next(stream)] for stream in streams[:2]]
        grown[0] += islice(streams[0], 1)
        grown += [[next(stream)] for stream in streams[2:]]
        together = [[*some, *stream][-1] for some, stream in zip(grown, streams, strict=True)]
    except Exception as error:  # of any kind: nobody knows what this model does
        return f"{name} does not run in a batch of moeviz's ({type(error).__name__}: {cut(str(error), 200)})."
    if all(_are_alike(alone[one], made) for one, made in zip(which, together, strict=True)):
        return ""
    return f"A sequence of {name} is routed differently in a batch with others than by itself."


def _trial(run: ModelInput, ids: list[int]) -> CaptureJob:
    request = CaptureRequest((), TRIAL_TOKENS, kernels=False, token_ids=(tuple(ids),))
    plan = plan_for(run.model, TRIAL_TOKENS, request.sampling, request.decoding, growing=True)
    read = torch.tensor([ids], device=run.model.device)
    return CaptureJob(replace(run, batch=Batch(read, torch.ones_like(read))), plan, request)


def _run_alone(job: CaptureJob) -> RoutingTrace:
    with exclusive(job.run.model), record_with_hooks(job) as so_far:
        generated = decode(job.run.model, job.run.batch, job.plan)
        return assemble(so_far(), job.run, generated)


def _are_alike(one: RoutingTrace, other: RoutingTrace) -> bool:
    """Return True for the same tokens and experts, and weights and logits within the tolerance."""
    parts = [(one.weights, other.weights), (one.logits, other.logits)]
    return (
        one.tokens.equals(other.tokens)
        and np.array_equal(one.experts, other.experts)
        and all(_near(of, part) for of, part in parts if of is not None and part is not None)
    )


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    """Return True for arrays equal within the tolerance; -inf, the padding of smaller layers, is equal to itself."""
    largest = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return one.shape == other.shape and np.allclose(one, other, rtol=0.0, atol=TOLERANCE * float(largest))
