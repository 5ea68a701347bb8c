"""Texts -> a dataset, shard by shard: what is done stays done, and memory does not grow with the corpus."""

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch

from moeviz.capture.corpus import fitting_stretches
from moeviz.capture.engines.engine import EngineModel
from moeviz.capture.models.folder import weights_identity
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.patching import eager_model, unwrap_peft
from moeviz.capture.opening import load_model
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.trace import trace
from moeviz.corpus.texts import Text, files_of, planned, texts_of_shard
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.formats.dataset.folder import DatasetFolder, check_begun, new_plan, plan_in, writing
from moeviz.formats.dataset.layout import ROWS, Kept, Weights
from moeviz.formats.dataset.opening import read_dataset
from moeviz.formats.dataset.reader import Dataset
from moeviz.formats.dataset.s3 import Place, place_of
from moeviz.formats.dataset.shard import Rows, ShardWriter, rows_of
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted

SHARD_BYTES = 4_000_000  # of text: about a million tokens; what is lost by a kill is at most one of them
BATCH_TOKENS = {"cuda": 16_384}  # of a batch, by device
ON_A_CPU = 1_024  # short texts gain half by running together; long ones nothing, and more positions cost more
IN_MEMORY = "weights_in_memory"  # in the plan
SAMPLED = 1_024  # numbers of a tensor that does not belong to a router
ReportProgress = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Settings of a corpus that is written. The same texts and settings give the same bytes."""

    weights: Weights = "float16"
    text: bool = True  # False: neither the tokens' texts nor their ids are written
    lines: bool = False  # each line of a text file is a text
    outputs: bool = False  # sums of the figures of experts' outputs, by label and expert, next to the rows
    shard_bytes: int | None = None  # of text; None: 4,000,000, or as the begun run took
    batch_tokens: int | None = None  # padded; 0: a text at a time. None: as begun, or 16,384 on a GPU, else 1,024
    threads: int | None = None  # of torch, in each process; None: as many as torch takes, or as the begun run took


@dataclass(frozen=True, slots=True)
class FirstLook:
    """Facts of an opened model that a plan needs, before it reads a text."""

    model: ModelInfo
    weights: bool  # whether they are recorded
    identity: str | None
    in_memory: str | None  # of the weights, which may have been changed since they were loaded
    batch_tokens: int
    threads: int


def write_corpus(
    model: LoadedModel | EngineModel | str,
    paths: Sequence[str],
    folder: str | Place,
    wanted: Wanted | None = None,
    resume: bool = False,
    progress: ReportProgress | None = None,
) -> Dataset:
    """Trace the texts of files and write their routing as a dataset, a shard at a time.

    model     as `moeviz.load_model` returns it, or a name that it takes.
    paths     .jsonl (a text a line, with a label or labelled by the file), .parquet (columns text and label), any other
              file (one text), or folders of them.
    folder    where to: a folder, or s3://BUCKET/PREFIX of an object store.
    wanted    how weights are written, whether texts are, and sizes: a `moeviz.corpus.run.Wanted`.
    resume    go on with what is there: every text is in the dataset once, however often the run was killed.
    progress  called with (texts done, texts in all, seconds left) after each batch. Raise in it to stop.

    Raises `InvalidPrompt` for texts that cannot be read or that changed, `MoevizError` where the folder holds something
    else or another run is writing to it, `OSError` where nothing can be written; and what `trace` raises.

    >>> import moeviz
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "French.txt").write_text("Il fait froid.")
    ...     moeviz.write_corpus("embedded", [f"{folder}/French.txt"], f"{folder}/out").texts
    1
    """
    wanted, folder = Wanted() if wanted is None else wanted, place_of(folder)
    check_begun(folder, resume)
    files = files_of(paths)
    model = load_model(model) if isinstance(model, str) else model
    plan = planned_run(first_look(model, wanted), files, wanted, plan_in(folder))
    if not isinstance(model, EngineModel):
        torch.set_num_threads(plan["threads"])  # another number of threads gives other last bits
    try:
        with writing(folder, plan, resume) as open_folder:
            tell = Clock(open_folder, progress)
            for shard in open_folder.pending():
                write_shard(model, files, open_folder, shard, tell)
            open_folder.finish()
    except OSError as error:
        raise OSError(error.errno, how_to_go_on(error, folder)) from error
    return read_dataset(folder)


def how_to_go_on(error: OSError, folder: Place) -> str:
    """Say what could not be read or written, where, and what to do about it."""
    place = error.filename or (folder if isinstance(folder, Path) else gettempdir())
    first = "Make room there" if error.errno == errno.ENOSPC else "Put that right"
    return (
        f"{error.strerror or error}: {quoted(place)}. {first}, and go on with --resume (in Python, resume=True): the "
        "shards that are whole are kept."
    )


def write_shard(
    model: LoadedModel | EngineModel,
    files: Sequence[Path],
    folder: DatasetFolder,
    shard: int,
    tell: Callable[[int], None],
) -> bool:
    """Trace and write one shard. It may be run again, and by two at a time: False where another was first."""
    plan, facts = folder.plan, folder.shards[shard]
    texts, number = texts_of_shard(files, facts, plan["lines"]), facts["first_text"]
    with folder.writer(shard) as writer:
        for window in _windows(model, texts, number):
            traced = _trace_window(model, window, plan["batch_tokens"], folder, writer)
            for at, label, stretches in window:
                writer.add(at, label, [next(traced) for _ in stretches])
            tell(len(window))
        return writer.commit(folder.digest)


Pieces = list[tuple[int, str, list[str]]]  # number, label and stretches of texts


def _windows(model: LoadedModel | EngineModel, texts: Iterable[Text], first: int) -> Iterator[Pieces]:
    """Yield the texts that are sorted into batches together: about a row group of them."""
    held: Pieces = []
    tokens = 0
    for number, text in enumerate(texts, start=first):
        try:
            stretches = fitting_stretches(model, text.text)
            tokens += sum(map(model.count_tokens, stretches))
        except InvalidPrompt as error:
            raise InvalidPrompt(f"Text {number:,}, labelled {text.label!r}: {error}") from error
        held.append((number, text.label, stretches))
        if tokens >= ROWS:
            yield held
            held, tokens = [], 0
    if held:
        yield held


def _trace_window(
    model: LoadedModel | EngineModel, window: Pieces, batch_tokens: int, folder: DatasetFolder, writer: ShardWriter
) -> Iterator[Rows]:
    """Trace all stretches and yield what is kept, in their order; run in batches of like lengths, or one by one.

    Hooks always record the routers: a change to kernels during the run would change the facts of the model.
    """
    stretches = list(chain.from_iterable(stretches for _, _, stretches in window))
    labels = [label for _, label, pieces in window for _ in pieces]
    how = {"keep_logits": False, "kernels": False, "outputs": bool(folder.plan.get("outputs"))}
    lengths = np.array([model.count_tokens(stretch) for stretch in stretches])
    found: dict[int, Rows] = {}
    for batch in batches(lengths, batch_tokens) if batch_tokens else ([at] for at in range(len(stretches))):
        made = _check_facts(trace(model, [stretches[at] for at in batch], **how), folder)
        writer.functions.add(made.model.score_function)
        if made.model.caution != folder.model.caution:
            writer.cautions.add(made.model.caution.removeprefix(folder.model.caution).strip())
        rows = rows_of(made, folder.kept)
        ends = np.searchsorted(made.tokens["sequence"], np.arange(len(batch)), side="right").tolist()
        for at, start, end in zip(batch, [0, *ends[:-1]], ends, strict=True):  # a trace of each would cost more
            found[at] = {name: values[start:end] for name, values in rows.items()}
            if how["outputs"]:
                writer.statistics.add_outputs(labels[at], made.select(tokens=slice(start, end)))
    yield from (found.pop(at) for at in range(len(stretches)))


def batches(lengths: np.ndarray, most: int) -> Iterator[list[int]]:
    """Group stretches into batches of like lengths, with at most `most` tokens including padding.

    >>> list(batches(np.array([3, 9, 2, 3]), most=9))
    [[2, 0, 3], [1]]
    """
    batch: list[int] = []
    for at in np.argsort(lengths, kind="stable").tolist():
        if batch and lengths[at] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _check_facts(made: RoutingTrace, folder: DatasetFolder) -> RoutingTrace:
    """Raise `CaptureError` unless a trace is of the planned model: its facts cannot change during a run.

    Its caution may: a server may have another for each answer.
    """
    facts = replace(made.model, score_function=folder.model.score_function, caution=folder.model.caution)
    if facts != folder.model:
        raise CaptureError(
            f"A text was recorded with other facts about {made.model.name!r} than the first one was. Trace it by "
            "itself to see which."
        )
    return made


def first_look(model: LoadedModel | EngineModel, wanted: Wanted) -> FirstLook:
    """Trace one token, so that what cannot be recorded is reported before any text is read."""
    first = trace(model, "a", keep_logits=False, kernels=False, outputs=wanted.outputs)
    caution = model.info.caution if isinstance(model, EngineModel) else first.model.caution  # not of this one answer
    identities = weights_identity(first.model.name, first.model.revision), weights_in_memory(model)
    lasting = replace(first.model, score_function="unknown", caution=caution)  # recognised anew in each text
    facts = lasting, first.weights is not None, *identities
    return FirstLook(*facts, _batch_tokens(model, wanted), torch.get_num_threads())


def planned_run(first: FirstLook, files: list[Path], wanted: Wanted, begun: dict[str, Any] | None) -> dict[str, Any]:
    """Plan a run of these texts and settings. One that goes on takes sizes and threads of the run that was begun."""
    shard_bytes = wanted.shard_bytes or _read_planned_number(begun, "shard_bytes", SHARD_BYTES)
    shards = planned(files, shard_bytes, wanted.lines)
    kept = Kept(wanted.weights if first.weights else "none", wanted.text)
    batch_tokens = first.batch_tokens
    if wanted.batch_tokens is None:
        batch_tokens = _read_planned_number(begun, "batch_tokens", batch_tokens, least=0)
    how = {
        "weights_identity": first.identity,
        "files": [{"name": path.name, "bytes": path.stat().st_size} for path in files],
        "lines": wanted.lines,
        "shard_bytes": shard_bytes,
        "batch_tokens": batch_tokens,
        "threads": wanted.threads or _read_planned_number(begun, "threads", first.threads),
    }
    if wanted.outputs:
        how["outputs"] = True
    if begun is None or IN_MEMORY in begun:  # an older run is gone on with as it was begun
        how[IN_MEMORY] = first.in_memory
    return new_plan(first.model, kept, shards, **how)


def weights_in_memory(model: LoadedModel | EngineModel) -> str | None:
    """Return a short text that differs for different weights in memory; for another engine's model, for other files.

    All numbers of the routers count, and some of each other tensor: a model may be larger than can be read in a moment.
    """
    if isinstance(model, EngineModel):
        return model.identity
    module, digest = unwrap_peft(eager_model(model.model)), sha256()
    routers = tuple(f"{router.path}." for router in find_routers(module))
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if type(tensor) is not torch.Tensor or tensor.is_meta:  # packed in a way of its own, or not here
            continue
        step = 1 if name.startswith(routers) else max(tensor.numel() // SAMPLED, 1)
        digest.update(tensor.reshape(-1)[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_planned_number(begun: dict[str, Any] | None, name: str, otherwise: int, least: int = 1) -> int:
    """Read a number from the plan of the unfinished run. A wrong one is found when the plans are compared."""
    value = (begun or {}).get(name)
    return value if type(value) is int and value >= least else otherwise


def _batch_tokens(model: LoadedModel | EngineModel, wanted: Wanted) -> int:
    """Return the tokens of a batch; 0 for one stretch at a time."""
    if isinstance(model, EngineModel):
        return 0
    if wanted.batch_tokens is not None:
        return wanted.batch_tokens
    return BATCH_TOKENS.get(model.model.device.type, ON_A_CPU)


class Clock:
    """Report the progress of a run, and the time that the rest needs at the pace so far."""

    def __init__(self, folder: DatasetFolder, progress: ReportProgress | None) -> None:
        left = set(folder.pending())
        self.total = sum(shard["texts"] for shard in folder.shards)
        self.before = self.total - sum(shard["texts"] for n, shard in enumerate(folder.shards) if n in left)
        self.done, self.progress, self.begun = self.before, progress, time.monotonic()

    def __call__(self, texts: int) -> None:
        """Add texts that are done."""
        self.done += texts
        if self.progress is not None:
            pace = (time.monotonic() - self.begun) / (self.done - self.before)
            self.progress(self.done, self.total, pace * (self.total - self.done))
