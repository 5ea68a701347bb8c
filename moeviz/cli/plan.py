"""Write the placement of experts for an inference engine: `moeviz plan`."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from moeviz.cli.cost import in_lines, judged_on_other, judged_tokens
from moeviz.cli.options import add_json, add_judged_on, add_phase, number
from moeviz.cli.output import check_parent, note, records
from moeviz.errors import MoevizError
from moeviz.text import quoted
from moeviz.whole_files import write_file

ENGINES = (
    "sglang",
    "tensorrt-llm",
    "vllm-ascend",
    "eplb",
    "ktransformers",
    "ktransformers-together",
    "lmdeploy",
    "llama.cpp-cache",
    "llama.cpp",
)  # moeviz.serving.plans


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--engine", required=True, metavar="ENGINE", help=f"one of {', '.join(ENGINES)}")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    parser.add_argument("--devices", type=number(int, 1), metavar="N")
    parser.add_argument("--copies", type=number(int, 0), metavar="R")
    parser.add_argument("--num-layers", type=number(int, 1), metavar="N")
    parser.add_argument("--layers-on-gpu", type=number(int, 0), metavar="N")
    add_judged_on(parser)
    add_phase(parser)
    add_json(parser, table=False)


def run(args: Namespace) -> int:
    facts = write_plan(args)
    print(json.dumps(facts) if args.json else plan_text(facts))
    return 0


def write_plan(args: Namespace) -> dict[str, Any]:
    """Write a plan, and return its facts: engine, file, sizes, on what it was judged, and how the engine is started."""
    from moeviz.serving.plans.engines import engine_named, export_plan, plan_remarks, sizes_for
    from moeviz.serving.plans.plan import make_plan

    engine, target = engine_named(args.engine), Path(args.output)
    if target.suffix.lower() != engine.suffix:
        raise MoevizError(f"{engine.title} reads a {engine.suffix} file; got {quoted(target.name)}. Change the suffix.")
    for name in ("devices", "copies", "layers_on_gpu"):
        if getattr(args, name) is not None and name not in engine.takes:
            note(f"--{name.replace('_', '-')} has no effect for {engine.title}: its file does not depend on it")
    check_parent(args.output)
    trace, said = judged_tokens(args)
    sizes = sizes_for(args.engine, args.devices, args.copies)
    plan = make_plan(trace, *sizes, num_layers=args.num_layers, layers_on_gpu=args.layers_on_gpu)
    data, remarks = export_plan(plan, args.engine), plan_remarks(plan, args.engine, trace)
    other = {}
    if args.judged_on is not None and "layers_on_gpu" in engine.takes:
        note(f"--judged-on has no effect for {engine.title}: its file places whole layers")
    elif args.judged_on is not None:
        from moeviz.serving.staleness import kept_sets, placements

        says, tables = judged_on_other(args, trace, placements(*sizes[:2]) if plan.devices > 1 else kept_sets())
        remarks, other = [*remarks, *says], {name: records(table) for name, table in tables.items()}
    write_file(target, data)
    facts = {"engine": engine.title, "file": args.output, "holds": engine.reads, "devices": plan.devices}
    facts |= {"copies": plan.copies, "layers": len(plan.slots), "repaired": engine.repaired(plan), "tokens": said}
    return facts | {"judged": plan.judged, "remarks": remarks, "command": engine.command(plan, args.output)} | other


def plan_text(facts: dict[str, Any]) -> str:
    """Return the facts of a plan as text for a terminal."""
    lines = [f"wrote {facts['file']} for {facts['engine']}: {facts['holds']}, {facts['layers']} layers"]
    said = map(in_lines, [facts["tokens"], *facts["remarks"]])
    return "\n".join([*lines, *said, "", f"start it with: {facts['command']}"])
