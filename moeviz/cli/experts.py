"""Show all experts of a model in one table: `moeviz experts`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moeviz.cli.options import (
    add_import_options,
    add_json,
    add_loading,
    add_segment,
    load,
    numbers,
    open_dataset,
    read_one_trace,
)
from moeviz.cli.output import frame_texts, keep_when_stopped, note, print_findings, print_tables, progress, records
from moeviz.cli.words import Several
from moeviz.errors import CaptureError, MoevizError
from moeviz.text import no_layer, why_no_file
from moeviz.whole_files import write_file

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.capture.models.load import LoadedModel
    from moeviz.corpus.analyses import DatasetStatistics
    from moeviz.routing_trace import RoutingTrace

SUFFIXES = (".csv", ".json")
SHOWN = (
    "layer",
    "expert",
    "share",
    "mean_weight",
    "added",
    "greatest",
    "kind",
    "lift",
    "name",
    "precision",
    "recall",
    "f1",
    "f1_token",
    "f1_kind",
    "f1_position",
    "spec",
    "role",
    "keeps",
    "writes",
    "label",
    "label_score",
    "label_measure",
    "label_rate",
    "label_lift",
    "says",
)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL|TRACE|DATASET")
    parser.add_argument("texts", metavar="TEXTS", nargs="*", default=[])
    parser.add_argument("--layers", **numbers(int, 0))
    parser.add_argument("--mute", action="store_true")
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--partial", action="store_true")
    add_loading(parser)
    parser.add_argument("--labels", action=Several, metavar="FILE")
    parser.add_argument("--write-labels", metavar="FILE")
    add_json(parser)
    add_segment(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    from moeviz.metrics.expert_table import (
        expert_table,
        expert_table_sentences,
        labels_sentence,
        notes_on_experts,
        with_labels,
    )

    if args.output is not None and not args.output.lower().endswith(SUFFIXES):
        raise MoevizError(f"The table is written as .csv or .json, and {args.output!r} is neither. Give such a name.")
    if args.write_labels is not None and not args.write_labels.lower().endswith(".json"):
        raise MoevizError(f"Labels are written as .json, and {args.write_labels!r} is not. Give such a name.")
    labels = _labels_at(args.labels)
    recorded = _recorded(args)
    if recorded is None and args.segment is not None:
        raise MoevizError("--segment chooses tokens of a recorded chat. Give a file of moeviz trace --messages.")
    findings: list[str] = []
    table, counted = _of_model(args) if recorded is None else (expert_table(recorded), recorded)
    if labels is not None:
        table = with_labels(table, labels, counted)
        findings.append(labels_sentence(table, labels))
    if args.layers:
        table = table[table["layer"].isin(args.layers)]
        if table.empty:
            raise MoevizError(no_layer(args.source, args.layers[0], counted.model.layers))
    table = table.assign(says=notes_on_experts(table))
    _write(table, [*findings, *expert_table_sentences(table)], args)
    if args.write_labels is not None:
        from moeviz.formats.expert_labels import to_labels

        labels, number = to_labels(table, counted.model.name)
        if number:
            write_file(args.write_labels, labels)
            note(f"wrote {args.write_labels}: {number:,} label{'s' * (number > 1)}")
        else:
            note(f"{args.write_labels} was not written: no expert is a specialist, and none has a name that holds")
    return 0


def _recorded(args: Namespace) -> "RoutingTrace | DatasetStatistics | None":
    """Read the dataset or the trace; None if a model is named."""
    from moeviz.formats.dataset.opening import is_dataset

    is_file = not why_no_file(args.source) and Path(args.source).is_file()
    if not is_dataset(args.source) and (not is_file or args.source.lower().endswith(".gguf")):
        return None
    if args.texts or args.mute:
        what = "texts" if args.texts else "losses without experts"
        raise MoevizError(
            f"{args.source!r} is recorded, and {what} need a model to read them. Give a model in its place."
        )
    if not is_dataset(args.source):
        return read_one_trace(args.source, args)
    from moeviz.corpus.analyses import DatasetStatistics

    return DatasetStatistics(open_dataset(args.source, args))


def _labels_at(paths: list[str] | None) -> "pd.DataFrame | None":
    if paths is None:
        return None
    import pandas as pd

    from moeviz.formats.expert_labels import read_labels

    return pd.concat([read_labels(path) for path in paths], ignore_index=True)


def _of_model(args: Namespace) -> "tuple[pd.DataFrame, RoutingTrace]":
    """Make the table of a model's experts, with columns of its weights and vectors; return it with the trace."""
    from moeviz.analyses.expert_vectors import expert_vectors
    from moeviz.capture.corpus import trace_corpus
    from moeviz.capture.models.load import LoadedModel
    from moeviz.capture.routers.geometry import nearest_by_weights
    from moeviz.cli.corpus import texts_at, texts_missing
    from moeviz.embedded.own_models import OWN_MODELS
    from moeviz.labelled_texts import texts_that_ship
    from moeviz.metrics.expert_table import expert_table, with_twins, with_writing

    if not args.texts and args.source not in OWN_MODELS:
        raise MoevizError(texts_missing("experts", args.source))
    texts = texts_at(args.texts) if args.texts else texts_that_ship()
    args.model = args.source
    model = load(args)
    if not isinstance(model, LoadedModel) and (args.mute or not model.shows_outputs):
        cannot = "mute experts" if args.mute else "see what experts put out"
        raise MoevizError(
            f"{model.name} runs in {model.info.backend}, where moeviz cannot {cannot}. Load the transformers "
            "checkpoint, or give a trace of it."
        )
    keep_when_stopped()
    trace = trace_corpus(model, texts, outputs=True, progress=partial(progress, says="traced {} of {} texts"))
    if not isinstance(model, LoadedModel):
        note(f"{model.info.backend} shows no vectors, so similar experts, and what they write, are left out.")
        return expert_table(trace), trace
    table, by_weights = expert_table(trace), nearest_by_weights(model.model)
    try:
        vectors = expert_vectors(model, texts, progress=partial(progress, says="read {} of {} texts"))
    except CaptureError as why:  # the rest is as good without
        note(str(why))
        table = with_twins(table, by_weights, None)
    else:
        table = with_twins(with_writing(table, vectors.written), by_weights, vectors.nearest)
    return (_muted(model, table, texts, args) if args.mute else table), trace


def _muted(
    model: "LoadedModel", table: "pd.DataFrame", texts: list[tuple[str, str]], args: Namespace
) -> "pd.DataFrame":
    """Add the loss of all texts together without each expert to the table, in nats per token."""
    from moeviz.analyses.muting import muted_by_label
    from moeviz.metrics.expert import loss_of_all

    rows = table if not args.layers else table[table["layer"].isin(args.layers)]
    pairs = list(zip(rows["layer"].tolist(), rows["expert"].tolist(), strict=True))
    note(f"muting {len(pairs):,} experts, one after the other, on {len(texts):,} texts")
    muted = muted_by_label(model, texts, experts=pairs, progress=partial(progress, says="{} of {} texts"))
    return rows.assign(loss_change=[loss_of_all(muted, *pair) for pair in pairs])


def _write(table: "pd.DataFrame", findings: list[str], args: Namespace) -> None:
    from moeviz.metrics.expert_table import filled_columns
    from moeviz.spreadsheets import table_as_csv

    if args.output is not None:
        as_csv = args.output.lower().endswith(".csv")
        data = table_as_csv(table) if as_csv else json.dumps(records(table)).encode()
        write_file(args.output, data)
        note(f"wrote {args.output}")
    if args.json:
        print_tables({"experts": table}, findings)
        return
    print_findings(findings)
    if args.output is None:
        shown = filled_columns(table, (*SHOWN, "loss_change"))
        for text in frame_texts(table[shown].round(3)):
            print(text)
