"""Convert a file to another format: `moeviz convert`."""

import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from moeviz.cli.options import (
    add_counts_only,
    add_import_options,
    add_segment,
    open_dataset,
    read,
    read_one_trace,
)
from moeviz.cli.output import check_output, is_dataset_target, note, write
from moeviz.errors import MoevizError
from moeviz.text import quoted, why_no_file

if TYPE_CHECKING:
    from moeviz.routing_trace import Counted


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("target", metavar="TO")
    parser.add_argument("--partial", action="store_true")
    parser.add_argument("--weights", choices=("exact", "float16", "none"))
    parser.add_argument("--no-text", action="store_true")
    parser.add_argument("--plain", action="store_true")
    add_counts_only(parser)
    add_segment(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    from moeviz.expert_counts import ExpertCounts
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.formats.exports import export_for, left_out, write_trace

    target = args.target
    if args.counts_only:
        check_output(target, counts_only=True)
        write(counts_in(args), target, counts_only=True)
        return 0
    if is_page_target(args, target):
        note(f"wrote {target}: {convert_to_page(args, target)}")
        return 0
    if is_dataset(args.source) or is_dataset_target(target):
        note(f"wrote {target}: {convert_dataset(args, target)}")
        return 0
    check_output(target)
    found = read(args.source, args)
    if isinstance(found, ExpertCounts):
        write(found, target)
        return 0
    write_trace(found, target, plain=args.plain)
    note(f"wrote {target}: {len(found.tokens):,} tokens, {len(found.model.layers)} layers")
    if lost := left_out(found, export_for(target).suffix):
        note(lost)
    return 0


def counts_in(args: Namespace) -> "Counted":
    """Read what counts can be made of: a trace, counts, or a dataset's small tables, by label where it has labels."""
    from moeviz.formats.dataset.opening import is_dataset

    if not is_dataset(args.source):
        return read(args.source, args)
    dataset = open_dataset(args.source, args)
    return dataset.counts_by_label() if any(dataset.labels()) else dataset.counts()


def is_page_target(args: Namespace, target: str) -> bool:
    """Return whether a target is a page's folder: it ends in "/" or is there, and is not a dataset's."""
    from moeviz.formats.dataset.opening import is_dataset

    if is_dataset(target) or args.weights or args.no_text:
        return False
    if target.endswith("/"):
        return True
    return bool(target) and not why_no_file(target) and not Path(target).suffix and Path(target).is_dir()


def convert_to_page(args: Namespace, target: str) -> str:
    """Write a trace or a dataset as a page, and return what was written and how to look at it."""
    from moeviz.formats.dataset.convert import trace_of
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.report.page_folder import check_page_folder, write_page

    check_page_folder(target)
    of_dataset = is_dataset(args.source)
    trace = trace_of(open_dataset(args.source, args)) if of_dataset else read_one_trace(args.source, args)
    look = f"python -m http.server -d {shlex.quote(target)}"
    return f"{write_page(trace, target)}. Put it on any web host, or look at it: {look}"


def convert_dataset(args: Namespace, target: str) -> str:
    """Write a trace as a dataset, or a dataset as a trace, and return what was written."""
    from moeviz.formats.dataset.convert import trace_of, write_dataset
    from moeviz.formats.dataset.folder import check_begun
    from moeviz.formats.dataset.opening import is_dataset, read_dataset
    from moeviz.formats.dataset.s3 import place_of
    from moeviz.formats.exports import left_out, write_trace

    if is_dataset_target(target):
        if is_dataset(args.source):
            raise MoevizError(f"{quoted(args.source)} is a dataset already. Copy the folder.")
        check_begun(place_of(target), resume=False)
        trace = read_one_trace(args.source, args)
        write_dataset(trace, target, args.weights or "exact", text=not args.no_text)
        if lost := left_out(trace, ""):
            note(lost)
        return f"{read_dataset(target)!r}"
    check_output(target)
    trace = trace_of(open_dataset(args.source, args))
    write_trace(trace, target)
    return f"{len(trace.tokens):,} tokens, {len(trace.model.layers)} layers"
