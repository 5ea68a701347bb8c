"""Trace labelled texts: `moeviz corpus`."""

import json
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import add_counts_only, add_json, add_model, conversations_at, load, loading, number
from moeviz.cli.output import (
    check_output,
    frame_text,
    is_dataset_target,
    keep_when_stopped,
    note,
    progress,
    records,
    visible_line,
    write,
)
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.text import cut, no_layer, quoted

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.capture.run.chat import Prompt
    from moeviz.corpus.on_ray import Cluster
    from moeviz.corpus.run import Wanted
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.formats.dataset.s3 import Place
    from moeviz.routing_trace import RoutingTrace

RAY_OPTIONS = ("actors", "gpus")
DATASET_OPTIONS = (
    "resume",
    "no_text",
    "weights",
    "lines",
    "shard_bytes",
    "batch_tokens",
    "threads",
    "ray",
    *RAY_OPTIONS,
)
TEXT_SUFFIXES = (".txt", ".md", ".jsonl", ".json", ".csv", ".tsv")
FEW_EXPERTS = 16  # all of them fit into a line of a terminal
BUSIEST = 5  # of more
OWN_TOKENS = 256  # of each of the texts that ship


def arguments(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("files", metavar="FILE", nargs="*", default=[])
    source.add_argument("--embedded", action="store_true")
    parser.add_argument("-o", "--output", metavar="PLACE")
    add_model(parser)
    add_counts_only(parser)
    parser.add_argument("--outputs", action="store_true")
    _add_dataset(parser)
    parser.add_argument("--layer", type=number(int, 0), metavar="N")
    add_json(parser)


def _add_dataset(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("with a folder for -o", "Texts are read, traced and written a shard at a time.")
    group.add_argument("--resume", action="store_true")
    group.add_argument("--no-text", action="store_true")
    group.add_argument("--weights", choices=("float16", "exact", "none"))
    group.add_argument("--lines", action="store_true")
    group.add_argument("--shard-bytes", type=number(int, 1), metavar="N")
    group.add_argument("--batch-tokens", type=number(int, 0), metavar="N")
    group.add_argument("--threads", type=number(int, 1), metavar="N")
    group.add_argument("--ray", nargs="?", const="", type=_address, metavar="ADDRESS")
    group.add_argument("--actors", type=number(int, 1), metavar="N")
    group.add_argument("--gpus", type=number(float, 0), metavar="F")


def _address(word: str) -> str:
    """Read the address of a cluster: any other word after --ray is a file."""
    if word not in ("", "auto") and not re.fullmatch(r"(\w+://)?[^/]+:\d+", word):
        raise ArgumentTypeError(f"{word!r} is not an address of Ray. Give auto, or HOST:PORT")
    return word


def run(args: Namespace) -> int:
    from moeviz.labelled_texts import texts_that_ship

    if is_dataset_target(args.output) and not args.counts_only:
        print(trace_to_dataset(args))
        return 0
    check_no_dataset(args)
    check_output(args.output, args.counts_only)
    if args.outputs and not str(args.output).lower().endswith(".npz"):
        raise MoevizError("Experts' outputs of a corpus are written to a .npz file or to a folder. Give one with -o.")
    texts = texts_that_ship() if args.embedded else texts_at(args.files)
    from moeviz.capture.corpus import trace_corpus

    model = load(args)
    if args.layer is not None and args.layer not in model.info.layers:  # before it runs, not after
        raise InvalidTrace(no_layer(model.info.name, args.layer, model.info.layers))
    keep_when_stopped()
    result = trace_corpus(model, texts, outputs=args.outputs, progress=partial(progress, says="traced {} of {} texts"))
    write(result, args.output, args.counts_only)
    if not args.json:
        print(report(result, args.layer))
        return 0
    frames, reasons = tables(result)
    for reason in reasons:
        note(reason)
    print(json.dumps({"model": model.name} | {name: records(frame) for name, frame in frames.items()}))
    return 0


def check_no_dataset(args: Namespace) -> None:
    """Raise `MoevizError` where an option of datasets would do nothing."""
    for option in DATASET_OPTIONS:
        if getattr(args, option) not in (None, False):
            raise MoevizError(
                f"--{option.replace('_', '-')} is for a corpus that is written to a folder. Give one with -o: a name "
                "without a suffix."
            )


def trace_to_dataset(args: Namespace) -> str:
    """Trace the texts into a dataset, and return what to print of it."""
    from moeviz.formats.dataset.folder import check_begun
    from moeviz.formats.dataset.s3 import place_of

    if args.embedded or args.layer is not None:
        option = "--embedded" if args.embedded else "--layer"
        raise MoevizError(f"{option} gives one trace, and {quoted(args.output)} is a folder. Give -o FILE.npz.")
    cluster = _cluster(args)
    folder = place_of(args.output)
    check_begun(folder, args.resume)
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)  # a target that cannot be written is refused before the model runs
    from moeviz.corpus.run import Wanted, write_corpus
    from moeviz.corpus.texts import files_of

    for file in files_of(args.files):
        file.stat()  # a missing file is reported before the model is loaded
    wanted = Wanted(
        weights=args.weights or "float16",
        text=not args.no_text,
        lines=args.lines,
        outputs=args.outputs,
        shard_bytes=args.shard_bytes,
        batch_tokens=args.batch_tokens,
        threads=args.threads,
    )
    if cluster is not None:
        dataset = _on_ray(args, cluster, folder, wanted)
    else:
        dataset = write_corpus(load(args), args.files, folder, wanted, resume=args.resume, progress=_progress)
    return json.dumps(facts_of(dataset)) if args.json else _summary(dataset)


def _cluster(args: Namespace) -> "Cluster | None":
    """Return the cluster of a run on Ray; None without --ray. Raises `MoevizError` for options that need Ray."""
    if args.ray is None:
        for option in RAY_OPTIONS:
            if getattr(args, option) is not None:
                raise MoevizError(f"--{option} shares out a run on Ray, and this one is not on Ray. Add --ray.")
        return None
    from moeviz.corpus.on_ray import Cluster, check_ray

    cluster = Cluster(args.ray or None, args.actors, args.gpus or 0)
    check_ray(cluster)
    return cluster


def _on_ray(args: Namespace, cluster: "Cluster", folder: "Place", wanted: "Wanted") -> "Dataset":
    from moeviz.corpus.on_ray import write_corpus_on_ray

    if args.adapter:
        raise MoevizError("Each actor of Ray opens the model, and runs no adapter. Leave out --ray.")
    note(f"{'joining' if cluster.address else 'starting'} Ray, where each actor opens {cut(args.model)}")
    how = {"resume": args.resume, "progress": _progress, "cluster": cluster, "backend": args.backend}
    return write_corpus_on_ray(args.model, args.files, folder, wanted, **how, **loading(args))


def facts_of(dataset: "Dataset") -> dict[str, Any]:
    """Return the facts of a dataset, for JSON."""
    size = sum(facts["bytes"] for shard in dataset.shards for facts in shard.files.values())
    facts = {"model": dataset.model.name, "texts": dataset.texts, "tokens": dataset.tokens, "bytes": size}
    return facts | {"shards": len(dataset.shards), "labels": dataset.labels(), "left_out": list(dataset.left_out)}


def _summary(dataset: "Dataset") -> str:
    facts, layers = facts_of(dataset), len(dataset.model.layers)
    words, caution = "with their texts", ""
    if not dataset.kept.text:
        words = "without their texts and ids"
        caution = "The experts of a token give a part of its text away. "
        caution += f"“moeviz convert {quoted(dataset.path)} counts.json --counts-only” writes only counts.\n"
    weights = {"none": "no weights", "exact": "exact weights"}.get(dataset.kept.weights, "float16 weights")
    what = f"{dataset.tokens:,} tokens of {dataset.texts:,} texts, {layers} MoE layers, {len(facts['labels']):,} labels"
    return (
        f"{visible_line(dataset.model.name)}: {what}, in {facts['shards']:,} shard{'s' * (facts['shards'] != 1)}\n"
        f"{facts['bytes']:,} bytes; tokens {words}, {weights}\n{caution}"
        f"moeviz metrics {quoted(dataset.path)} --topic load (or coverage, specialization, co-activation, flow, "
        "locality) reads it where it lies."
    )


def _progress(done: int, total: int, _seconds: float) -> None:
    progress(done, total, says="traced {:,} of {:,} texts")


def texts_at(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Read the (label, text) pairs of files on disk.

    Raises `OSError` for a file that cannot be read, and `InvalidPrompt` for a name that no file can have, and a pipe.
    """
    from moeviz.corpus.texts import check_file
    from moeviz.labelled_texts import texts_of_files

    return texts_of_files((path, check_file(path).read_bytes()) for path in paths)


def texts_or_chats(paths: Iterable[str], args: Namespace) -> "list[tuple[str, Prompt]]":
    """Read labelled texts; with --segment, the conversations in the files, each labelled by the name of its file."""
    if getattr(args, "segment", None) is None:
        return [*texts_at(paths)]
    return [(PurePath(path).stem, chat) for path in paths for chat in conversations_at(path)]


def texts_to_divide(args: Namespace) -> "tuple[list[tuple[str, Prompt]], int | None]":
    """Return the labelled texts of a command, or those that ship, and how many tokens of each are read."""
    from moeviz.embedded.own_models import OWN_MODELS
    from moeviz.labelled_texts import texts_that_ship

    if not args.texts and args.model not in OWN_MODELS:
        raise MoevizError(texts_missing(args.command, args.model))
    if not args.texts:
        check_chats(args)
        return [*texts_that_ship()], args.tokens or OWN_TOKENS
    return texts_or_chats(args.texts, args), args.tokens


def check_chats(args: Namespace) -> None:
    """Raise `MoevizError` if a segment of the texts that ship is asked for."""
    if getattr(args, "segment", None) is not None:
        raise MoevizError("The texts that ship are no chats, and have no segments. Name files of messages.")


def judged_on_other(args: Namespace) -> dict[str, Any]:
    """Return what judges instead, by --judged-on: another checkpoint under `judge`, or texts under `judged_on`."""
    if args.judged_on is None:
        return {}
    if (Path(args.judged_on) / "config.json").is_file():
        from moeviz.capture.models.load import LoadedModel
        from moeviz.capture.opening import load_model

        judge = load_model(args.judged_on, **loading(args))
        if not isinstance(judge, LoadedModel):
            raise MoevizError(f"{quoted(args.judged_on)} runs in {judge.info.backend}. Name a transformers checkpoint.")
        return {"judge": judge}
    return {"judged_on": texts_or_chats([args.judged_on], args)}


def texts_missing(command: str, model: str) -> str:
    """Return the sentence on a model without texts; a file of texts in its place was meant to be read by one."""
    if PurePath(model).suffix.lower() in TEXT_SUFFIXES:
        return (
            f"{quoted(model)} was taken as the model, and it is a file of texts. Name the model first: "
            f"moeviz {command} embedded {cut(model)}"
        )
    return f"{quoted(model)} needs texts to read. Name text or .jsonl files: moeviz {command} MODEL TEXTS"


def tables(trace: "RoutingTrace") -> tuple[dict[str, "pd.DataFrame"], list[str]]:
    """Measure the labels of a trace: tables by the name of the metric, and a sentence for each one that is missing."""
    from moeviz.metrics.locality import locality_by_label
    from moeviz.metrics.specialization import label_divergence, label_information, load_by_label

    frames, reasons = {}, []
    for measure in (label_information, load_by_label, label_divergence, locality_by_label):
        try:
            frames[measure.__name__] = measure(trace)
        except MoevizError as error:
            reasons.append(str(error))
    return frames, reasons


def report(trace: "RoutingTrace", layer: int | None) -> str:
    """Return as text how much the experts tell about labels, and which label uses which experts at one layer.

    The layer is `layer`, or the one whose experts tell most.
    """
    from moeviz.metrics.specialization import label_information

    information = label_information(trace)
    if layer is None:
        layer = int(information["layer"][information["information"].fillna(0).argmax()])
    sequences = trace.tokens.groupby("label", sort=False)["sequence"].nunique()
    heading = (
        f"{visible_line(trace.model.name)}: {len(trace.tokens):,} tokens in {sequences.sum():,} sequences, "
        f"{len(sequences):,} labels\n\n"
        "How much the expert of an assignment tells about the label of its token, in bits. shuffled: the same with "
        "labels\nshuffled among the sequences, mean and highest of 100 shuffles.\n"
    )
    if (sequences == 1).all():
        heading += "Each label has only one sequence, so there is nothing to shuffle. Give several texts per label.\n"
    return "\n".join([heading + frame_text(information.round(3)), "", _routing(trace.select(layers=[layer]))])


def _routing(trace: "RoutingTrace") -> str:
    """Return the shares of each label by expert, at the one layer of the trace."""
    from moeviz.metrics.specialization import load_by_label

    load, (num_experts,) = load_by_label(trace), trace.model.num_experts
    heading = (
        f"Layer {trace.model.layers[0]}: share of each label's assignments by expert, in %; the uniform share is "
        f"{100 / num_experts:.1f}.\n--layer N shows another layer, --json prints all, and -o FILE saves the trace."
    )
    shares = load.assign(percent=100 * load["share"])
    if num_experts <= FEW_EXPERTS:
        wide = shares.pivot(index="label", columns="expert", values="percent").loc[load["label"].unique()]
        return f"{heading}\n{frame_text(wide.round(1).reset_index())}"
    busiest = shares.sort_values("share", ascending=False, kind="stable").groupby("label", sort=False).head(BUSIEST)
    named = busiest.assign(
        experts=[f"{e} ({p:.1f})" for e, p in zip(busiest["expert"], busiest["percent"], strict=True)]
    )
    lines = named.groupby("label")["experts"].agg("  ".join).loc[load["label"].unique()].reset_index()
    return f"{heading} The {BUSIEST} busiest experts of each label:\n{frame_text(lines)}"
