"""Which experts can a model do without, and at what cost: `moeviz prune`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from moeviz.cli.corpus import judged_on_other, texts_to_divide
from moeviz.cli.options import (
    add_divided_texts,
    add_json,
    add_judged_on,
    add_loading,
    load_inside,
    number,
    numbers,
    one_of,
)
from moeviz.cli.output import check_parent, keep_when_stopped, note, print_answer, progress
from moeviz.cli.words import Several
from moeviz.errors import MoevizError
from moeviz.text import cut
from moeviz.whole_files import write_file

if TYPE_CHECKING:
    from moeviz.analyses.pruning.checkpoint import Checkpoint

CRITERIA = ("reap", "reap_sum", "frequency", "gate_mass", "greatest", "random")  # known without loading numpy
FORMS = ("moeviz", "vllm-ascend", "llm-compressor")
REPLACED_BY = ("next best", "mean output")


def arguments(parser: ArgumentParser) -> None:
    add_divided_texts(parser)
    parser.add_argument("--cut", **numbers(int, 1))
    parser.add_argument("--cut-total", type=number(int, 1), metavar="N")
    add_judged_on(parser)
    parser.add_argument(
        "--criteria",
        action=Several,
        split=",",
        read=one_of(CRITERIA),
        pattern=f"({'|'.join(CRITERIA)}|,)+",
        default=list(CRITERIA),
        metavar="NAME",
    )
    parser.add_argument("--by-kind", choices=[name for name in CRITERIA if name != "random"], metavar="NAME")
    parser.add_argument("--by", choices=[name for name in CRITERIA if name != "random"], default="reap", metavar="NAME")
    parser.add_argument("--replaced-by", choices=REPLACED_BY, default=REPLACED_BY[0], metavar="WHAT")
    parser.add_argument("--ranking", metavar="FILE")
    parser.add_argument("--form", choices=FORMS, default=FORMS[0])
    parser.add_argument("-o", "--output", metavar="FOLDER")
    add_loading(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    texts, tokens = texts_to_divide(args)
    one = _cut_from_files(args)
    checkpoint = None if args.output is None else _checkpoint(args, one)
    from moeviz.analyses.pruning.curve import pruning_curve
    from moeviz.analyses.pruning.rankings import evidence, ranking
    from moeviz.analyses.pruning.result import pruning_sentences
    from moeviz.metrics.pruning import ALL, FRESH

    acts = args.ranking or checkpoint
    criteria = dict.fromkeys(
        [*args.criteria, *([args.by, "random"] if acts else []), *["random"] * bool(args.judged_on)]
    )
    model = load_inside(args)
    other = judged_on_other(args)
    keep_when_stopped()
    curve = pruning_curve(
        model,
        texts,
        cuts=args.cut,
        cut_total=args.cut_total,
        criteria=tuple(criteria),
        **other,
        draws=args.draws,
        seed=args.seed,
        by_kind=args.by_kind,
        tokens=tokens,
        segment=args.segment,
        replaced_by=args.replaced_by,
        progress=partial(progress, says="read {:,} of {:,} texts"),
    )
    if tokens is not None:
        note(f"only the first {tokens:,} tokens of each text were read")
    if args.ranking:
        write_file(args.ranking, ranking(curve, args.by, args.form, one))
        note(f"wrote {cut(args.ranking)}")
    if checkpoint is not None:
        _write(checkpoint, args.output, curve.cut(args.by, one), evidence(curve, args.by) | {"cut": one})
    rows = curve.losses
    if args.by_kind is None:
        rows = rows[rows["chosen_on"].isin([ALL, FRESH]) & (rows["judged_on"] == ALL)]
    in_all = curve.in_all
    if in_all is not None and args.by_kind is None:
        in_all = in_all[in_all["judged_on"] == ALL]
    findings = pruning_sentences(curve, args.by if acts else args.criteria[0])
    tables = {"losses": rows} | ({} if in_all is None else {"in_all": in_all})
    return print_answer(args.json, tables, findings, *(table.round(3) for table in tables.values()))


def _cut_from_files(args: Namespace) -> int | None:
    """Return the number of experts to cut from each layer of a file; None if --cut gives none, or several."""
    one = args.cut[0] if args.cut and len(args.cut) == 1 else None
    if args.cut_total is not None and args.output is not None:
        raise MoevizError("A config has one number of experts for all layers. Leave out --cut-total, or --output.")
    if one is None and (args.output is not None or (args.ranking and args.form == FORMS[-1])):
        raise MoevizError("A file needs one number of experts to cut from each layer. Give it with --cut N.")
    check_parent(args.ranking)
    if args.output is not None and args.replaced_by != REPLACED_BY[0]:
        raise MoevizError("No transformers model has mean outputs instead of experts. Leave out --output.")
    return one


def _checkpoint(args: Namespace, count: int) -> "Checkpoint":
    """Return the files to cut from. Raises `MoevizError`, before the model runs, if they cannot be written."""
    from moeviz.analyses.pruning.checkpoint import Checkpoint, check_space, check_target

    target = check_target(args.output)
    checkpoint = Checkpoint.of(args.model)
    check_space(target, checkpoint.size_without(count))
    return checkpoint


def _write(
    checkpoint: "Checkpoint", folder: str, experts: Mapping[int, Sequence[int]], about: Mapping[str, Any]
) -> None:
    """Write the model without these experts, layer by layer, and print how much smaller it is."""
    written = checkpoint.write(folder, experts, about, partial(progress, says="wrote {:,} of {:,} bytes"))
    (before, after), (was, now) = written.experts, written.size
    note(
        f"wrote {cut(folder)}: {after:,} of {before:,} experts per layer, {now / 1e6:,.1f} MB of weights "
        f"instead of {was / 1e6:,.1f} MB"
    )
