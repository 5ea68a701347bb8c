"""Which experts need many bits, and which can do with few: `moeviz bits`."""

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.corpus import judged_on_other, texts_to_divide
from moeviz.cli.options import add_divided_texts, add_json, add_judged_on, add_loading, load_inside, number
from moeviz.cli.output import check_parent, keep_when_stopped, note, print_answer, progress
from moeviz.errors import MoevizError
from moeviz.text import cut
from moeviz.whole_files import write_file

if TYPE_CHECKING:
    from moeviz.analyses.pruning.bits import BitsStudy

UNITS = ("experts", "layers")  # known without loading numpy
RULES = ("kl", "loss", "frequency")
FORMS = ("csv", "llama.cpp", "llm-compressor")


def arguments(parser: ArgumentParser) -> None:
    add_divided_texts(parser)
    parser.add_argument("--bits", type=number(int, 2, 8), nargs=2, default=(3, 4), metavar=("FEW", "MANY"))
    parser.add_argument("--budget", type=number(float, 2, 8), metavar="B")
    parser.add_argument("--units", choices=UNITS, default=UNITS[0])
    parser.add_argument("--rule", choices=RULES, default=RULES[0])
    add_judged_on(parser)
    parser.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--form", choices=FORMS, default=FORMS[0])
    add_loading(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    if args.form == FORMS[1] and args.units != UNITS[1]:
        raise MoevizError("A tensor of a .gguf file holds all experts of a layer. Add --units layers.")
    check_parent(args.output)
    texts, tokens = texts_to_divide(args)
    from moeviz.analyses.pruning.bits import bits_sentences, bits_study

    model, other = load_inside(args), judged_on_other(args)
    keep_when_stopped()
    study = bits_study(
        model,
        texts,
        bits=tuple(args.bits),
        budget=args.budget,
        units=args.units,
        **other,
        draws=args.draws,
        seed=args.seed,
        tokens=tokens,
        segment=args.segment,
        progress=partial(progress, says="read {:,} of {:,} texts"),
    )
    if tokens is not None:
        note(f"only the first {tokens:,} tokens of each text were read")
    if args.output is not None:
        write_file(args.output, _file(study, args))
        note(f"wrote {cut(args.output)}")
    tables = {"units": study.units, "plans": study.plans}
    findings = bits_sentences(study, args.rule)
    return print_answer(args.json, tables, findings, *(table.round(5) for table in tables.values()))


def _file(study: "BitsStudy", args: Namespace) -> bytes:
    from moeviz.formats.recipes import to_llama_cpp, to_llm_compressor
    from moeviz.spreadsheets import table_as_csv

    plan = study.plan(args.rule)
    if args.form == FORMS[1]:
        return to_llama_cpp(plan).encode()
    if args.form == FORMS[2]:
        return to_llm_compressor(plan, study.blocks).encode()
    return table_as_csv(study.units)
