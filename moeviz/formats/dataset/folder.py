"""The folder of a dataset while it is written: one plan, one driver, shards that come one by one, the manifest last."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from moeviz.errors import InvalidTrace, MoevizError
from moeviz.formats.dataset.layout import MANIFEST, PLAN, SHARD, Kept, facts_from, facts_json, name_of
from moeviz.formats.dataset.s3 import Place
from moeviz.formats.dataset.shard import ShardWriter
from moeviz.formats.dataset.storage import storage_of
from moeviz.formats.trace_facts import parse_json
from moeviz.model_info import ModelInfo
from moeviz.text import cautions_in_one, quoted


class DatasetFolder:
    """A dataset that is being written. Made by `writing`, which holds its lock."""

    def __init__(self, path: Place, plan: dict[str, Any]) -> None:
        self.path, self.storage, self.plan = path, storage_of(path), plan
        self.model, self.kept = facts_from(plan, f"The plan of {quoted(path)}")
        self.digest = digest_of(plan)

    @property
    def shards(self) -> list[dict[str, Any]]:
        """The planned shards: `texts` is its number of texts, `first_text` the number of the first."""
        shards: list[dict[str, Any]] = self.plan["shards"]
        return shards

    def pending(self) -> list[int]:
        """List the shards that are not there yet."""
        return self.storage.missing(len(self.shards))

    def has(self, shard: int) -> bool:
        """Return whether a shard is there."""
        return self.storage.has(shard)

    def writer(self, shard: int, **how: Any) -> ShardWriter:
        """Return the writer of a shard."""
        return ShardWriter(self.storage, shard, self.model, self.kept, **how)

    def sweep(self) -> None:
        """Remove what writers left that were killed."""
        self.storage.sweep()

    def finish(self) -> None:
        """Write the manifest: counts are of what lies there, not of what was planned. Raises `InvalidTrace`."""
        if missing := self.pending():
            raise InvalidTrace(
                f"{len(missing)} of the {len(self.shards)} shards of {quoted(self.path)} are missing; the first is "
                f"{name_of(missing[0])}. Run the same command again, with --resume."
            )
        parts = [self._facts_of(number) for number in range(len(self.shards))]
        functions = {name for part in parts for name in part["score_functions"]} - {"unknown"}
        known = functions.pop() if len(functions) == 1 else "unknown"
        facts = facts_json(self.model, self.kept)
        facts["model"]["score_function"] = known
        facts["model"]["caution"] = cautions_in_one([self.model.caution, *(part.get("caution", "") for part in parts)])
        counts = {name: sum(part[name] for part in parts) for name in ("texts", "tokens")}
        shards = [{key: part[key] for key in ("shard", "texts", "tokens", "files")} for part in parts]
        self.storage.sweep()
        self.storage.put(MANIFEST, json.dumps(facts | {"plan": self.digest} | counts | {"shards": shards}))

    def _facts_of(self, number: int) -> dict[str, Any]:
        """Return the facts in a shard's own file, if it is the one that was planned."""
        place = self.path / name_of(number) / SHARD
        part = parse_json(place.read_bytes(), f"file {SHARD} of {name_of(number)}")
        if part.get("shard") != number or part.get("plan") != self.digest:
            raise InvalidTrace(f"{name_of(number)} is a shard of another corpus. Remove it, and resume.")
        if part.get("texts") != (planned := self.shards[number]["texts"]):
            raise InvalidTrace(
                f"{name_of(number)} holds {part.get('texts')} texts, and {planned} were planned. Remove it, and resume."
            )
        return part


@contextmanager
def writing(path: Place, plan: dict[str, Any], resume: bool = False) -> Iterator[DatasetFolder]:
    """Begin a dataset, or go on with the one that is there; in a folder as its only driver.

    Raises `MoevizError` if another driver writes it, if there is one already and `resume` is not set, and if what is
    there is of other texts, weights or settings.
    """
    check_begun(path, resume)
    storage = storage_of(path)
    with storage.driven():
        check_begun(path, resume)  # once more: nobody else can begin it now
        if (path / PLAN).exists():
            _check_same(path, plan)
        else:
            storage.put(PLAN, json.dumps(plan))
        storage.sweep()
        yield DatasetFolder(path, plan)


def check_begun(path: Place, resume: bool) -> None:
    """Raise `MoevizError` unless the place is new, or holds a dataset to resume: before a model is opened."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise MoevizError(
            f"The name {quoted(path)} is not UTF-8, and no Parquet file can be written there. Give another folder."
        ) from None
    if (path / PLAN).exists():
        if not resume:
            state = "a whole dataset" if (path / MANIFEST).exists() else "a dataset that is not finished"
            raise MoevizError(f"{quoted(path)} holds {state}. Go on with it by --resume, or give another folder.")
    elif not storage_of(path).is_free():
        raise MoevizError(f"{quoted(path)} holds other files, and no dataset. Give an empty or a new folder.")


def plan_in(path: Place) -> dict[str, Any] | None:
    """Return the plan of an unfinished dataset; None if it has no plan. Raises `InvalidTrace` for a damaged one."""
    place = path / PLAN
    return parse_json(place.read_bytes(), f"file {PLAN} of {path.name}") if place.exists() else None


def new_plan(model: ModelInfo, kept: Kept, shards: list[dict[str, Any]], **how: Any) -> dict[str, Any]:
    """Return the plan that is written before anything runs. The same texts and settings give the same plan."""
    plan = facts_json(model, kept) | how | {"texts": sum(shard["texts"] for shard in shards), "shards": shards}
    as_read: dict[str, Any] = json.loads(json.dumps(plan))
    return as_read


def digest_of(plan: dict[str, Any]) -> str:
    """Return a short text that identifies the plan."""
    return sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def _check_same(path: Place, plan: dict[str, Any]) -> None:
    old = plan_in(path) or {}
    if old != plan:
        names = ", ".join(sorted(key for key in old.keys() | plan.keys() if old.get(key) != plan.get(key)))
        raise MoevizError(
            f"{quoted(path)} holds a dataset of other texts, weights or settings: its plan differs in {names}. Give "
            "the same command and the same model as before, or another folder."
        )
