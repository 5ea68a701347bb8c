"""Open a dataset: its manifest read and checked, each shard there as it was written, or named in a sentence."""

import re
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.dataset.layout import FILES, MANIFEST, PLAN, SHARD, facts_from, name_of
from moeviz.formats.dataset.reader import Dataset, Shard
from moeviz.formats.dataset.s3 import Place, S3Path, is_store, place_of
from moeviz.formats.dataset.storage import sizes_in
from moeviz.formats.trace_facts import parse_json
from moeviz.text import quoted, why_no_file


def is_dataset(path: str | Place) -> bool:
    """Return whether a path is a folder that a dataset was begun in, or an address in an object store."""
    if isinstance(path, S3Path) or is_store(path):
        return True  # nothing else is read from there
    path = Path(path)
    return not why_no_file(path) and path.is_dir() and any((path / name).is_file() for name in (MANIFEST, PLAN))


def read_dataset(path: str | Place, partial: bool = False) -> Dataset:
    """Open a dataset. Nothing of it is read but its manifest; sizes are compared, and sums when a table is read.

    path     a folder, or s3://BUCKET/PREFIX
    partial  read the shards that are whole, and name the others in `left_out`.

    Raises `InvalidTrace`, with the shard's name, if a shard is missing, damaged, or not of this dataset, and for a
    dataset that is not finished; `MoevizError` for an address that makes no sense, or a store that does not answer; and
    `OSError` if it cannot be read.

    >>> import moeviz, tempfile
    >>> from moeviz.testing import sample_trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     moeviz.write_dataset(sample_trace(), f"{folder}/out")
    ...     moeviz.read_dataset(f"{folder}/out").tokens
    32
    """
    path = place_of(path)
    if not (path / MANIFEST).exists():
        return _open_unfinished(path, partial)
    content = parse_json((path / MANIFEST).read_bytes(), f"{MANIFEST} of {path.name}")
    model, kept = facts_from(content, f"{MANIFEST} of {path.name}")
    sizes = sizes_in(path)
    shards, wrong = [], _name_strangers(sizes, content)
    for number, facts in enumerate(_shards_in(content)):
        shard = _shard(path, number, facts)
        if why := _why_not(shard, sizes):
            wrong.append(f"{shard.name} {why}.")
        else:
            shards.append(shard)
    return _with_errors(Dataset(path, model, kept, tuple(shards)), wrong, partial)


def check_dataset(dataset: Dataset) -> list[str]:
    """Read every byte of the shards, compare it with its sha256, and return a sentence for each damaged shard."""
    return [f"{shard.name} {why}." for shard in dataset.shards if (why := _find_change(shard))]


def _with_errors(dataset: Dataset, wrong: list[str], partial: bool) -> Dataset:
    if wrong and not partial:
        more = f" {len(wrong) - 1} more are not whole either." if len(wrong) > 1 else ""
        raise InvalidTrace(
            f"{quoted(dataset.path)}: {wrong[0]}{more} Read the rest with --partial (in Python, partial=True), or "
            "write those shards again."
        )
    return replace(dataset, left_out=tuple(wrong))


def _open_unfinished(path: Place, partial: bool) -> Dataset:
    if not (path / PLAN).exists():
        raise InvalidTrace(f"{quoted(path)} has no dataset: it lacks {MANIFEST}.")
    if not partial:
        raise InvalidTrace(
            f"{quoted(path)} is not finished: it has no {MANIFEST}. Finish it with --resume, or read what is there "
            "with --partial (in Python, partial=True)."
        )
    plan = parse_json((path / PLAN).read_bytes(), f"{PLAN} of {path.name}")
    model, kept = facts_from(plan, f"{PLAN} of {path.name}")
    sizes, shards, wrong = sizes_in(path), [], []
    for number in range(len(plan["shards"]) if isinstance(plan.get("shards"), list) else 0):
        try:
            facts = parse_json((path / name_of(number) / SHARD).read_bytes(), f"file {SHARD}")
            shard = _shard(path, number, facts)
            why = _why_not(shard, sizes)
        except (OSError, InvalidTrace) as error:
            why = "is not there yet" if isinstance(error, OSError) else f"is damaged: {error}"
        if why:
            wrong.append(f"{name_of(number)} {why}.")
        else:
            shards.append(shard)
    return Dataset(path, model, kept, tuple(shards), tuple(wrong))


def _shards_in(content: dict[str, Any]) -> list[dict[str, Any]]:
    shards = content.get("shards")
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise InvalidTrace(f"{MANIFEST} lists {shown(shards)} as its shards, which is damaged. Write it again.")
    return shards


def _name_strangers(sizes: dict[str, int], content: dict[str, Any]) -> list[str]:
    """Name the shards that the manifest does not list: a copy, or one of another run, would be counted twice."""
    own = {name_of(number) for number in range(len(_shards_in(content)))}
    found = sorted(name for name in {place.partition("/")[0] for place in sizes} if re.fullmatch(r"shard-\d+", name))
    return [f"{name} is not in the manifest, so it is not of this dataset." for name in found if name not in own]


def _shard(path: Place, number: int, facts: dict[str, Any]) -> Shard:
    """Return a shard by its facts. Raises `InvalidTrace` for facts that no writer gives."""
    numbers = [facts.get(name) for name in ("shard", "texts", "tokens")]
    files = facts.get("files")
    whole = all(type(value) is int and value >= 0 for value in numbers) and numbers[0] == number
    if not whole or not isinstance(files, dict) or set(files) != set(FILES) or not all(map(_is_file, files.values())):
        raise InvalidTrace(f"What is said of {name_of(number)} is damaged: {shown(facts)}. Write the dataset again.")
    return Shard(path / name_of(number), number, int(facts["texts"]), int(facts["tokens"]), files)


def _is_file(facts: Any) -> bool:
    return isinstance(facts, dict) and type(facts.get("bytes")) is int and type(facts.get("sha256")) is str


def _why_not(shard: Shard, sizes: dict[str, int]) -> str:
    """Explain why a shard is not whole, as the end of a sentence; "" if its sizes are right."""
    if not any(f"{shard.name}/{name}" in sizes for name in (SHARD, *shard.files)):
        return "is missing"
    for name, facts in shard.files.items():
        size = sizes.get(f"{shard.name}/{name}")
        if size is None:
            return f"is damaged: {name} is missing"
        if size != facts["bytes"]:
            return f"is damaged: {name} has {size:,} bytes, and {facts['bytes']:,} were written"
    return ""


def _find_change(shard: Shard) -> str:
    for name, facts in shard.files.items():
        digest = sha256()
        with (shard.path / name).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != facts["sha256"]:
            return f"is damaged: {name} is not what was written"
    return ""
