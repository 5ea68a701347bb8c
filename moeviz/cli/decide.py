"""`moeviz decide`: whether to act on a routing when it is served."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from moeviz.cli.cost import in_lines, judged_tokens, need_tokens
from moeviz.cli.options import add_json, add_judged_on, add_phase, number, open_dataset
from moeviz.cli.output import frame_text, print_findings, records

if TYPE_CHECKING:
    from moeviz.serving.answers import Answer


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--devices", type=number(int, 1), metavar="N")
    parser.add_argument("--capacity", type=number(int, 1), metavar="C")
    parser.add_argument("--draft", type=number(int, 2), default=4, metavar="N")
    add_judged_on(parser)
    add_phase(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    answers, said = answers_at(args)
    if args.json:
        facts = ("question", "verdict", "sentence")
        rows = [{name: getattr(each, name) for name in facts} | {"figures": records(each.figures)} for each in answers]
        print(json.dumps({"findings": [said], "answers": rows}))
    else:
        print_findings([said])
        print("\n\n".join(answer_text(each) for each in answers))
    return 0


def answers_at(args: Namespace) -> tuple[list["Answer"], str]:
    """Return the answers to what a file or a dataset gives, and a sentence on which tokens were judged."""
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.serving.answers import decide

    sizes = (args.devices, args.capacity, args.draft)
    other, of_other = judged_tokens(args, args.judged_on) if args.judged_on is not None else (None, "")
    if not is_dataset(args.file):
        counted, said = judged_tokens(args)
        return decide(counted, *sizes, judged_on=other), " ".join(filter(None, (said, of_other, counted.model.caution)))
    dataset = open_dataset(args.file, args)
    counts, by_label = dataset.counts_by_shard(), dataset.counts_by_label()
    need_tokens(args, counts)
    said = f"Counts of {dataset.tokens:,} tokens, of all phases, in {len(counts.groups):,} shards."
    judged = decide(counts if len(counts.groups) > 1 else by_label, *sizes, by_label, other)
    return judged, f"{said} {counts.model.caution}".strip()


def answer_text(answer: "Answer") -> str:
    """Return a question, the sentence that answers it, and its figures as text for a terminal."""
    lines = [answer.question, in_lines(answer.sentence)]
    return "\n".join(lines if answer.figures.empty else [*lines, frame_text(answer.figures.round(3))])
