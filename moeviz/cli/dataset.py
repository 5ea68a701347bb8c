"""What `moeviz corpus -o FOLDER` does, and what the commands that read a dataset share."""

import json
from argparse import Namespace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from moeviz.cli.io import load, note, progress
from moeviz.cli.terminal import visible_line
from moeviz.errors import MoevizError
from moeviz.formats.dataset.folder import check_begun
from moeviz.formats.dataset.opening import check_dataset, is_dataset, read_dataset
from moeviz.formats.dataset.store import Place, is_store, place_of
from moeviz.formats.exports import read_counted
from moeviz.names import cut, quoted, why_no_file
from moeviz.routing_trace import Counted

if TYPE_CHECKING:
    from moeviz.corpus.on_ray import Cluster
    from moeviz.corpus.run import Wanted
    from moeviz.formats.dataset.reader import Dataset

RAY_OPTIONS = ("actors", "gpus")
OPTIONS = ("resume", "no_text", "weights", "lines", "shard_bytes", "batch_tokens", "threads", "ray", *RAY_OPTIONS)


def is_folder(target: str | None) -> bool:
    """Whether a target is the place of a dataset: a name without a suffix, where one was begun, or in a store."""
    if is_store(target):
        return True
    if not target or why_no_file(target):
        return False
    named = not PurePath(target).suffix and not PurePath(target).name.startswith(".")
    return named or target.endswith("/") or is_dataset(target)


def check_no_dataset(args: Namespace) -> None:
    """Raise where an option of datasets would do nothing."""
    for option in OPTIONS:
        if getattr(args, option) not in (None, False):
            raise MoevizError(
                f"--{option.replace('_', '-')} is for a corpus that is written to a folder. Give one with -o: a name "
                "without a suffix."
            )


def written(args: Namespace) -> str:
    """Trace the texts into a folder; what to say of it."""
    if args.embedded or args.layer is not None:
        option = "--embedded" if args.embedded else "--layer"
        raise MoevizError(f"{option} gives one trace, and {quoted(args.output)} is a folder. Give -o FILE.npz.")
    cluster = _cluster(args)
    folder = place_of(args.output)
    check_begun(folder, args.resume)
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is said before the model runs
    from moeviz.corpus.run import SHARD_BYTES, Wanted, write_corpus

    wanted = Wanted(
        weights=args.weights or "float16",
        text=not args.no_text,
        lines=args.lines,
        shard_bytes=args.shard_bytes or SHARD_BYTES,
        batch_tokens=args.batch_tokens,
        threads=args.threads,
    )
    if cluster is not None:
        dataset = _on_ray(args, cluster, folder, wanted)
    else:
        dataset = write_corpus(load(args), args.files, folder, wanted, resume=args.resume, progress=_progress)
    return json.dumps(facts_of(dataset)) if args.json else _said(dataset)


def _cluster(args: Namespace) -> "Cluster | None":
    """Where the actors run, if the run is on Ray. Raises `MoevizError` for what is not possible."""
    if args.ray is None:
        for option in RAY_OPTIONS:
            if getattr(args, option) is not None:
                raise MoevizError(f"--{option} shares out a run on Ray, and this one is not on Ray. Add --ray.")
        return None
    from moeviz.corpus.on_ray import Cluster, check_ray

    cluster = Cluster(args.ray or None, args.actors, args.gpus or 0)
    check_ray(cluster)
    return cluster


def _on_ray(args: Namespace, cluster: "Cluster", folder: Place, wanted: "Wanted") -> "Dataset":
    from moeviz.corpus.on_ray import write_corpus_on_ray

    note(f"{'joining' if cluster.address else 'starting'} Ray, where each actor opens {cut(args.model)}")
    how = {"backend": args.backend} | ({"check_memory": False} if args.ignore_memory else {})
    told = {"resume": args.resume, "progress": _progress, "cluster": cluster}
    return write_corpus_on_ray(args.model, args.files, folder, wanted, **told, **how)


def facts_of(dataset: "Dataset") -> dict[str, Any]:
    """What a dataset holds, for JSON."""
    size = sum(facts["bytes"] for shard in dataset.shards for facts in shard.files.values())
    facts = {"model": dataset.model.name, "texts": dataset.texts, "tokens": dataset.tokens, "bytes": size}
    return facts | {"shards": len(dataset.shards), "labels": dataset.labels(), "left_out": list(dataset.left_out)}


def _said(dataset: "Dataset") -> str:
    facts, layers = facts_of(dataset), len(dataset.model.layers)
    words = "with their texts" if dataset.kept.text else "without their texts and ids"
    weights = {"none": "no weights", "exact": "exact weights"}.get(dataset.kept.weights, "float16 weights")
    what = f"{dataset.tokens:,} tokens of {dataset.texts:,} texts, {layers} MoE layers, {len(facts['labels']):,} labels"
    return (
        f"{visible_line(dataset.model.name)}: {what}, in {facts['shards']:,} shards\n"
        f"{facts['bytes']:,} bytes; tokens {words}, {weights}\n"
        f"moeviz metrics {quoted(dataset.path)} --topic load (or coverage, specialization, co-activation, flow, "
        "locality) reads it where it lies."
    )


def _progress(done: int, total: int, seconds: float) -> None:
    """How far a run has come, and how long the rest takes at that pace."""
    progress(done, total, says=f"traced {{:,}} of {{:,}} texts, {_duration(seconds)} left   ")


def _duration(seconds: float) -> str:
    """A time as people say it.

    >>> _duration(8.0), _duration(170.0), _duration(7300.0), _duration(205000.0)
    ('8 s', '3 min', '2 h 2 min', '2 d 8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def say_left_out(dataset: "Dataset") -> None:
    """What is not in the numbers that follow."""
    for sentence in dataset.left_out:
        note(f"left out: {sentence}")


def counted_at(args: Namespace) -> Counted:
    """What a file holds, a trace or counts; of the folder of a dataset its counts, from its small tables."""
    if not is_dataset(args.file):
        return read_counted(args.file)
    dataset = read_dataset(args.file, partial=args.partial)
    say_left_out(dataset)
    return dataset.counts()


def converted(args: Namespace, target: str) -> str:
    """Write a trace as a dataset, or a dataset as a trace or as counts; what was written."""
    from moeviz.cli.importing import read_one_trace
    from moeviz.formats.dataset.convert import trace_of, write_dataset
    from moeviz.formats.exports import export_for, write_trace

    if is_folder(target):
        if is_dataset(args.source):
            raise MoevizError(f"{quoted(args.source)} is a dataset already. Copy the folder.")
        check_begun(place_of(target), resume=False)
        trace = read_one_trace(args.source, args)
        write_dataset(trace, target, args.weights or "exact", text=not args.no_text)
        return f"{read_dataset(target)!r}"
    export_for(target)
    dataset = read_dataset(args.source, partial=args.partial)
    say_left_out(dataset)
    trace = trace_of(dataset)
    write_trace(trace, target)
    return f"{len(trace.tokens):,} tokens, {len(trace.model.layers)} layers"


def damages(path: str) -> list[str]:
    """What is wrong with the shards of a dataset, a sentence each: every byte of it is read."""
    dataset = read_dataset(path, partial=True)
    return [*dataset.left_out, *check_dataset(dataset)]
