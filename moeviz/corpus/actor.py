"""An actor: it opens the model by its name, reads the texts of a shard, and writes the shard. It knows no Ray."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moeviz.capture.engines.engine import EngineModel
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.opening import load_model
from moeviz.corpus.run import IN_MEMORY, FirstLook, Wanted, first_look, how_to_go_on, write_shard
from moeviz.errors import MoevizError
from moeviz.formats.dataset.folder import DatasetFolder, digest_of, plan_in
from moeviz.formats.dataset.s3 import Place
from moeviz.text import quoted


@dataclass(frozen=True, slots=True)
class Job:
    """Settings of an actor, small enough to be sent."""

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
        """Open the model and ask what it says before it reads a text; or say why it cannot be opened."""
        try:
            return first_look(self._opened(), self.job.wanted), ""
        except (MoevizError, OSError) as error:
            return None, self._sentence(error)

    def write(self, shard: int, digest: str) -> tuple[int, str]:
        """Write a shard of the plan with this digest; its number, and "" or why it could not be written."""
        try:
            folder = self._planned(digest)
            if not folder.has(shard):
                write_shard(self._opened(), self.job.files, folder, shard, lambda texts: None)
            return shard, ""
        except (MoevizError, OSError) as error:
            return shard, self._sentence(error)

    def _opened(self) -> LoadedModel | EngineModel:
        if self.model is None:
            if not self.job.gpus:
                os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no card from an actor that asked for none
            if Path(self.job.directory).is_dir():
                os.chdir(self.job.directory)  # a model's relative path means what it means to the driver
            self.model = load_model(self.job.model, **self.job.how)
            torch.set_num_threads(self.job.threads)
        return self.model

    def _planned(self, digest: str) -> DatasetFolder:
        if self.folder is None:
            plan = plan_in(self.job.folder)
            if plan is None or digest_of(plan) != digest:
                raise MoevizError(f"{quoted(self.job.folder)} is another folder there. Every machine needs the same.")
            first = first_look(self._opened(), self.job.wanted)
            planned = plan["weights_identity"], plan.get(IN_MEMORY, first.in_memory)
            if (first.identity, first.in_memory) != planned:
                raise MoevizError(
                    f"The files of {quoted(self.job.model)} are not those that the run was planned with, or have other "
                    "times. Copy them with their times (rsync -a), or give a folder that all machines share."
                )
            self.folder = DatasetFolder(self.job.folder, plan)
        return self.folder

    def _sentence(self, error: Exception) -> str:
        said = how_to_go_on(error, self.job.folder) if isinstance(error, OSError) else str(error)
        return f"on {socket.gethostname()}: {said}"
