"""A corpus written by actors of Ray, on several machines or fractions of a GPU, with the plain loop's shards.

Ray's own pool hands shard numbers to actors, starts an actor again that was lost, and gives it the same shard. Texts
and traces are never sent: an actor opens the model by its name, reads the texts of a shard and writes the shard, under
the rules of every writer, so a text cannot come twice. This is the only file that imports Ray.
"""

import logging
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from moeviz.capture.engines.engine import EngineModel
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.opening import load_model
from moeviz.corpus.run import (
    IN_MEMORY,
    Clock,
    FirstLook,
    ReportProgress,
    Wanted,
    first_look,
    how_to_go_on,
    planned_run,
    write_shard,
)
from moeviz.corpus.texts import files_of
from moeviz.errors import MoevizError
from moeviz.formats.dataset.folder import DatasetFolder, check_begun, digest_of, plan_in, writing
from moeviz.formats.dataset.layout import name_of
from moeviz.formats.dataset.opening import read_dataset
from moeviz.formats.dataset.reader import Dataset
from moeviz.formats.dataset.s3 import Place, place_of
from moeviz.text import quoted

LOST = 5  # times that an actor is started again; one that is lost more often is lost for a reason
OBJECT_STORE = 2**27  # bytes; what is sent is numbers of shards
# Ray sends nothing to the internet, and looks for no project of uv's, unless the user sets these.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that actors run on, and their number.

    address  None: Ray is started on this machine for this run. "auto": the cluster that this machine is in; or the
             HOST:PORT of its head.
    actors   each opens a model of its own. None: as many as fit.
    gpus     of an actor: 0.5 puts two on a card, whose memory they share; 0 runs on the CPU.
    """

    address: str | None = None
    actors: int | None = None
    gpus: float | int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """The settings of an actor, small enough to be sent."""

    model: str
    how: dict[str, Any]  # of load_model
    files: list[Path]
    folder: Place
    wanted: Wanted
    threads: int
    gpus: float | int
    directory: str


class Tracer:
    """An actor: one process with a model of its own. What it returns are numbers and sentences."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.model: LoadedModel | EngineModel | None = None
        self.folder: DatasetFolder | None = None

    def look(self) -> tuple[FirstLook | None, str]:
        """Open the model and return its facts, before it reads a text; or the reason why it cannot be opened."""
        try:
            return first_look(self._open_model(), self.job.wanted), ""
        except (MoevizError, OSError) as error:
            return None, self._sentence(error)

    def write(self, shard: int, digest: str) -> tuple[int, str]:
        """Write a shard of the plan with this digest; return its number, and "" or why it could not be written."""
        try:
            folder = self._read_plan(digest)
            if not folder.has(shard):
                write_shard(self._open_model(), self.job.files, folder, shard, lambda texts: None)
            return shard, ""
        except (MoevizError, OSError) as error:
            return shard, self._sentence(error)

    def _open_model(self) -> LoadedModel | EngineModel:
        if self.model is None:
            if not self.job.gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no card from an actor that asked for none
            if Path(self.job.directory).is_dir():
                os.chdir(self.job.directory)  # a model's relative path means what it means to the driver
            self.model = load_model(self.job.model, **self.job.how)
            torch.set_num_threads(self.job.threads)
        return self.model

    def _read_plan(self, digest: str) -> DatasetFolder:
        if self.folder is None:
            plan = plan_in(self.job.folder)
            if plan is None or digest_of(plan) != digest:
                raise MoevizError(f"{quoted(self.job.folder)} is another folder there. Every machine needs the same.")
            first = first_look(self._open_model(), self.job.wanted)
            planned = plan["weights_identity"], plan.get(IN_MEMORY, first.in_memory)
            if (first.identity, first.in_memory) != planned:
                raise MoevizError(
                    f"The files of {quoted(self.job.model)} are not those that the run was planned with, or have other "
                    "times. Copy them with their times (rsync -a), or give a folder that all machines share."
                )
            self.folder = DatasetFolder(self.job.folder, plan)
        return self.folder

    def _sentence(self, error: Exception) -> str:
        words = how_to_go_on(error, self.job.folder) if isinstance(error, OSError) else str(error)
        return f"on {socket.gethostname()}: {words}"


def check_ray(cluster: Cluster) -> None:
    """Raise `MoevizError` if Ray is not installed, or cannot do this."""
    if find_spec("ray") is None:
        raise MoevizError('Running on Ray needs Ray, which is not installed here: `pip install "moeviz[ray]"`.')
    address = cluster.address
    if address is not None and address != "auto" and not re.fullmatch(r"[\w.-]+:\d+|\[[\da-f:]+\]:\d+", address):
        raise MoevizError(
            f"{quoted(address)} is not the address of a Ray cluster. Give auto on a machine of the cluster, or the "
            "HOST:PORT of its head; texts come before --ray."
        )
    if cluster.gpus > 1 and cluster.gpus % 1:
        raise MoevizError(f"{cluster.gpus:g} GPUs an actor are not possible: give a part of one, or a whole number.")


def write_corpus_on_ray(
    model: str,
    paths: Sequence[str],
    folder: str | Place,
    wanted: Wanted | None = None,
    resume: bool = False,
    progress: ReportProgress | None = None,
    cluster: Cluster | None = None,
    **how: Any,
) -> Dataset:
    """Run `moeviz.write_corpus` on a Ray cluster, for a model that every actor opens by name.

    `how` are options of `load_model`. The folder and the texts must be the same on every machine. Files are byte for
    byte those of the plain loop with as many threads (1, unless `wanted` or the run that was begun says otherwise), and
    either continues where the other stopped. `progress` is called after each shard. Raises what `write_corpus` raises,
    and `MoevizError` if the cluster has no free resources, or if an actor is lost again and again.
    """
    wanted, place, cluster = wanted or Wanted(), place_of(folder), cluster or Cluster()
    folder = place.absolute() if isinstance(place, Path) else place
    check_ray(cluster)
    check_begun(folder, resume)
    files, begun = [path.absolute() for path in files_of(paths)], plan_in(folder)
    wanted = replace(wanted, threads=wanted.threads or (begun or {}).get("threads", 1))
    job = Job(model, how, files, folder, wanted, wanted.threads or 1, cluster.gpus, str(Path.cwd()))
    with _ray(cluster, job.threads) as ray:
        actors = _actors(ray, job, _count_actors(ray, cluster, job.threads))
        first = _first_answer(ray, actors)
        with writing(folder, planned_run(first, files, wanted, begun), resume) as open_folder:
            try:
                _write_shards(ray, actors, open_folder, Clock(open_folder, progress))
            finally:
                ray.shutdown()  # no actor is to outlive the lock on the folder
                open_folder.sweep()
            open_folder.finish()
    return read_dataset(folder)


def _write_shards(ray: Any, actors: list[Any], folder: DatasetFolder, tell: Clock) -> None:
    """Write every shard that is not there yet. Raises `MoevizError` with the message of the first that failed."""
    from ray.util import ActorPool

    pool = ActorPool(actors)
    actors.clear()  # one that nobody holds ends, and gives its place to one that has to start again
    try:
        for shard, why in pool.map_unordered(lambda actor, n: actor.write.remote(n, folder.digest), folder.pending()):
            if why:
                raise MoevizError(f"{name_of(shard)}: {why}")
            tell(folder.shards[shard]["texts"])
            if pool.has_free():
                pool.pop_idle()
    except ray.exceptions.RayActorError as error:
        raise MoevizError(_explain_loss(error)) from error


def _explain_loss(error: Exception) -> str:
    why = " ".join(str(error).split())
    return (
        f"An actor was lost {LOST + 1} times, so the run was stopped; what is done is kept. Is there memory for the "
        f"model of each actor? Give fewer --actors, and go on with --resume. Ray says: {why[:300]}"
    )


def _actors(ray: Any, job: Job, count: int) -> list[Any]:
    needs = {"num_cpus": job.threads, "num_gpus": job.gpus}
    actor = ray.remote(Tracer).options(**needs, max_restarts=LOST, max_task_retries=LOST)
    return [actor.remote(job) for _ in range(count)]


def _first_answer(ray: Any, actors: list[Any]) -> FirstLook:
    """Return the first answer; the other actors open their models meanwhile. Raises `MoevizError`."""
    try:
        (ready, *_), _ = ray.wait([actor.look.remote() for actor in actors], num_returns=1)
        first, failure = ray.get(ready)
    except ray.exceptions.RayActorError as error:
        raise MoevizError(_explain_loss(error)) from error
    if first is None:
        raise MoevizError(f"The model could not be opened {failure}")
    return first


def _count_actors(ray: Any, cluster: Cluster, threads: int) -> int:
    """Return the number of actors to run. Raises `MoevizError` if there are no resources: Ray would wait silently."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    free = [
        min(has.get("CPU", 0) // threads, has.get("GPU", 0) // cluster.gpus if cluster.gpus else 1e9) for has in nodes
    ]
    room = int(sum(free))
    if room < (cluster.actors or 1):
        each = f"{threads} CPU" + (f" and {cluster.gpus:g} GPU" if cluster.gpus else "")
        where = "This machine" if cluster.address is None else f"The cluster of {len(nodes)} machines"
        raise MoevizError(
            f"{where} has room for {room} actors of {each} each, and {cluster.actors or 1} were asked for. Give fewer "
            "--actors, or smaller ones (--threads, --gpus), or add machines first."
        )
    return cluster.actors or room


@contextmanager
def _ray(cluster: Cluster, threads: int) -> Iterator[Any]:
    """Start Ray here or join a cluster, and leave it at the end."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        raise MoevizError("Ray is in use in this process already. Call ray.shutdown() first.")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address is not None:
        try:
            if cluster.address != "auto":  # Ray would try for minutes if nobody answers
                host, _, port = cluster.address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=20).close()
            ray.init(address=cluster.address, **quiet)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            raise MoevizError(f"No Ray cluster answers at {quoted(cluster.address)}: {str(error)[:300]}") from error
        scratch = None
    else:
        # Short, since names of sockets are: a folder of macOS's own would be too long.
        scratch = tempfile.mkdtemp(prefix="ray-", dir=None if sys.platform == "win32" else "/tmp")
        cpus = None if cluster.actors is None else max(cluster.actors * threads, os.cpu_count() or 1)
        start = {"address": "local", "num_cpus": cpus, "include_dashboard": False, "_temp_dir": scratch}
        ray.init(object_store_memory=OBJECT_STORE, **start, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
