"""Find where a checkpoint's experts come from in another: `moeviz lineage`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.options import add_import_options, add_json, open_dataset, read_one_trace
from moeviz.cli.output import frame_texts, note, progress, records, visible_line

if TYPE_CHECKING:
    import pandas as pd


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="BASE")
    parser.add_argument("child", metavar="CHILD")
    parser.add_argument("--dataset", metavar="TRACE|DATASET")
    parser.add_argument("--partial", action="store_true")
    add_json(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    from moeviz.analyses.lineage import lineage

    found = lineage(args.source, args.child, progress=partial(progress, says="compared {} of {} experts"))
    lost = None if args.dataset is None else _lost_table(found.table, args)
    if args.json:
        facts = {name: getattr(found, name) for name in ("base", "child", "says", "formats", "chance", "threshold")}
        facts |= {"layers": found.layers, "experts": records(found.table)}
        print(json.dumps(facts | {"lost": None if lost is None else records(lost)}))
        return 0
    for sentence in found.says:
        print(visible_line(sentence))
    table = found.table[found.table["what"] != "kept"]
    if len(table):
        if len(table) < len(found.table):
            note("experts that were kept are not listed; --json has them")
        for text in frame_texts(_readable(table)):
            print(f"\n{text}")
    if lost is not None:
        print("\nWhat the lost experts did:")
        for text in frame_texts(lost.round(3)):
            print(text)
    return 0


def _lost_table(table: "pd.DataFrame", args: Namespace) -> "pd.DataFrame":
    from moeviz.corpus.analyses import DatasetStatistics
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.metrics.lineage import lost_experts

    if is_dataset(args.dataset):
        return lost_experts(table, DatasetStatistics(open_dataset(args.dataset, args)))
    return lost_experts(table, read_one_trace(args.dataset, args))


def _readable(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with its sources in words: "3", or "0.50 x 3 + 0.50 x 4"."""
    sources = [
        " + ".join(f"{part:.2f} x {expert}" for part, expert in zip(parts, experts, strict=True))
        if len(parts) > 1 and what != "spliced"
        else ", ".join("MLP" if expert < 0 else str(expert) for expert in experts)
        for parts, experts, what in zip(table["parts"], table["base_experts"], table["what"], strict=True)
    ]
    columns = ["layer", "expert", "what", "base_layer", "base_experts", "similarity", "difference", "runner_up"]
    shown = table.assign(base_experts=sources)[columns].round(4)
    return shown.astype(object).where(shown.notna(), "·").replace({"layer": {-1: "·"}, "expert": {-1: "·"}})
