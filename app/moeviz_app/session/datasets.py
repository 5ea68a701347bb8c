"""Datasets of corpora by name: those that this server was started with, and those that its own user opens by a path.

A link names a dataset as it is listed here, and nothing else: no path is ever taken from an address.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moeviz.corpus.rows import sample_of_dataset
from moeviz.errors import DamagedShard, MissingField, MoevizError
from moeviz.formats.dataset.layout import MANIFEST, PLAN
from moeviz.formats.dataset.opening import is_dataset, read_dataset
from moeviz.formats.dataset.reader import Dataset
from moeviz.formats.dataset.s3 import is_store
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted, why_no_file
from moeviz_app import settings
from moeviz_app.jobs.render_lock import released
from moeviz_app.server import identity
from moeviz_app.session.library import free_name
from moeviz_app.session.visit import visit

TITLE = 60  # characters
MOST_OPEN, MOST_SAMPLES = 8, 2
Signature = tuple[tuple[int, int], ...]
_opened: dict[str, tuple[Signature, Dataset, str]] = {}
_samples: dict[str, RoutingTrace] = {}


@dataclass(frozen=True, slots=True)
class ShownDataset:
    """A dataset on screen. `key` says which bytes its answers are about: another one, another answer."""

    name: str
    dataset: Dataset
    key: str
    why_not: str = ""  # what is wrong with it, if the rest has not been asked for


def listed() -> dict[str, str]:
    """Return the paths of datasets that this server was started with, by name."""
    found: dict[str, str] = {}
    for path in settings.SETTINGS.files:
        if not is_store(path) and is_dataset(path):  # a page is not to wait for a store
            found[_free(path, found)] = path
    return found


def offered() -> dict[str, str]:
    """Return the paths of datasets by name: the server's own, and those that this visitor has opened by a path."""
    return visit().datasets | listed()


def may_type() -> bool:
    """Return whether this visitor may name a folder: on a private server, the machine's own user."""
    return settings.SETTINGS.serve == settings.PRIVATE and identity.may_name_any_model()


def open_path(typed: str) -> str:
    """Open the dataset at a path and return its name. Raises `MoevizError` for anything else, or if nobody may ask."""
    if not may_type():
        raise MoevizError("Folders of this server cannot be opened from here.")
    if why := why_no_file(typed):
        raise MoevizError(f"{quoted(typed)} is not a folder: the name {why}.")
    try:
        path = Path(typed.strip()).expanduser()
    except RuntimeError as error:
        raise MoevizError(f"{quoted(typed)} is no folder: {error}") from error
    if not is_dataset(path):
        raise MoevizError(
            f"{quoted(typed)} is not a folder with a dataset. Give one that “moeviz corpus … -o FOLDER” has written."
        )
    where = str(path.resolve())
    known = next((name for name, other in offered().items() if Path(other).resolve() == Path(where)), None)
    name = known or _free(where, offered())
    if known is None:
        visit().datasets = {**dict(list(visit().datasets.items())[1 - MOST_OPEN :]), name: where}
    _read(name, where)
    return name


def named(name: str) -> ShownDataset:
    """Return the dataset of that name. Raises `MissingField` for one that is not open here, and `MoevizError`
    for one that cannot be read any more.
    """
    if (path := offered().get(name)) is None:
        raise MissingField(
            f"This link is about the dataset {quoted(name)}, which is not open here. Links do not open folders: start "
            "moeviz with it, or open it on the page Many texts; then follow the link again."
        )
    dataset, key = _read(name, path)
    rest = visit().left_out.get(key)
    if rest is None:
        return ShownDataset(name, dataset, key, _what_is_wrong(dataset))
    if not rest:
        return ShownDataset(name, dataset, key)
    return ShownDataset(name, dataset.without(rest), f"{key} without {sorted(rest)}")


def read_the_rest(shown: ShownDataset, damaged: DamagedShard | None = None) -> None:
    """Callback: from now on, the shards that are not whole are left out."""
    key = shown.key.partition(" ")[0]
    more = frozenset() if damaged is None else frozenset((damaged.shard,))
    visit().left_out[key] = visit().left_out.get(key, frozenset()) | more


def _what_is_wrong(dataset: Dataset) -> str:
    """Name the first shard that is not whole; "" if all are."""
    if not dataset.left_out:
        return ""
    others = len(dataset.left_out) - 1
    more = f" {others:,} more {'is' if others == 1 else 'are'} not whole either." if others else ""
    return f"{dataset.left_out[0]}{more} The rest is read if you ask for it."


def _read(name: str, path: str) -> tuple[Dataset, str]:
    """Return the dataset at a path, reopened only if it has changed. Raises `MoevizError`, without the path."""
    try:
        now = _signature(Path(path))
        known = _opened.get(path)
        if known is not None and known[0] == now:
            return known[1], known[2]
        dataset = read_dataset(path, partial=True)
    except OSError as error:
        raise MoevizError(
            f"The dataset {quoted(name)} cannot be read: {error.strerror or 'it is not there'}."
        ) from error
    if len(_opened) >= MOST_OPEN:
        _opened.pop(next(iter(_opened)), None)
    _opened[path] = (now, dataset, _key(dataset))
    return dataset, _opened[path][2]


def _signature(path: Path) -> Signature:
    """Return facts of a dataset's files that change when it is written anew, or goes on being written."""
    files = [path / name for name in (MANIFEST, PLAN) if (path / name).is_file()]
    return tuple(
        (stat.st_size, stat.st_mtime_ns) for stat in (place.stat() for place in (path, *(files or [path / PLAN])))
    )


def _key(dataset: Dataset) -> str:
    """Return a checksum of the manifest: of the model, and of every file."""
    files = [
        (shard.number, sorted((name, facts["sha256"]) for name, facts in shard.files.items()))
        for shard in dataset.shards
    ]
    return hashlib.sha256(repr((dataset.model, dataset.kept, files, dataset.left_out)).encode()).hexdigest()[:20]


def _free(path: str, taken: Mapping[str, object]) -> str:
    return free_name(visible(Path(path).resolve().name)[:TITLE] or "dataset", taken)


def sample(shown: ShownDataset, read: bool = True) -> RoutingTrace | None:
    """Return a sample of a dataset's texts as a trace, kept for all; None if it was not `read` yet and is not to be.

    Raises as `sample_of_dataset`.
    """
    if shown.key not in _samples and read:
        with released():  # it may take a while
            found = sample_of_dataset(shown.dataset)
        if len(_samples) >= MOST_SAMPLES:
            _samples.pop(next(iter(_samples)), None)
        _samples[shown.key] = found
    return _samples.get(shown.key)
