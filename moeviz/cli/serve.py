"""What `moeviz serve` computes of a trace or a model, and what `moeviz plan` writes."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pandas as pd

from moeviz.capture.models.kv_cache import served_model
from moeviz.cli.dataset import counted_at, is_dataset
from moeviz.errors import MoevizError
from moeviz.formats.exports import EXPORTS
from moeviz.names import quoted
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.batches import USUAL_BATCHES, batch_coverage
from moeviz.serving.cache import expert_cache, shared_cache
from moeviz.serving.memory import serving_memory
from moeviz.serving.phases import served_tokens
from moeviz.serving.placement import serving_placement
from moeviz.serving.plans.engines import engine_named, export_plan
from moeviz.serving.plans.plan import make_plan
from moeviz.serving.prefetch import prefetch_recall
from moeviz.serving.requests import with_tokens

HEADINGS = {
    "cache": "Hit rates of a cache of experts. bound: no policy has more; chance: a random set; _warm: second half.",
    "coverage": "Distinct experts that a batch of tokens needs; even: if tokens chose at random.",
    "prefetch": "Share of a token's experts that are among the first m that a predictor names.",
    "placement": "Load of the busiest device / the mean (imbalance), and the devices that a token reaches.",
    "memory": "Bytes of weights, keys and values and a step, and the cards that hold them with a tenth left free.",
}


def heading(what: str) -> str:
    """What a table shows, in a sentence or two."""
    return HEADINGS[what]


def in_lines(said: str) -> str:
    """A sentence a line.

    >>> in_lines("Made of 1.5 things. Kept.")
    'Made of 1.5 things.\\nKept.'
    """
    return re.sub(r"(?<=[.;]) (?=[A-Z])", "\n", said)


def served(args: Namespace) -> tuple[pd.DataFrame, str]:
    """The rows that were asked for, and on which tokens they were judged."""
    if args.what == "memory":
        return _memory(args)
    counted, said = _tokens(args)
    table = _table(args, counted)
    if not isinstance(counted, RoutingTrace):
        return _known(table, said)
    if args.what == "prefetch":
        return table, f"{said} Learnt on the first half of these, judged on the second."
    if args.what == "placement":
        return table, f"{said} Planned on the first half of these, judged on the second; imbalance_fit on the first."
    return table, said


def _table(args: Namespace, counted: Counted) -> pd.DataFrame:
    if args.what == "cache":
        if args.shared:
            return shared_cache(counted, args.capacities)
        return expert_cache(counted, args.capacities, chunk=args.chunk)
    if args.what == "coverage":
        return batch_coverage(counted, args.batch or USUAL_BATCHES)
    if args.what == "prefetch":
        return prefetch_recall(counted)
    return serving_placement(counted, args.devices, args.copies)


def _known(table: pd.DataFrame, said: str) -> tuple[pd.DataFrame, str]:
    """What counts alone give: the columns with numbers, and the names of those that need more."""
    unknown = [name for name in table if table[name].isna().all()]
    return table.drop(columns=unknown), f"{said} Not known without the order of tokens: {', '.join(unknown)}."


def _tokens(args: Namespace) -> tuple[Counted, str]:
    """What is judged, a trace's tokens or counts, and what is said of it."""
    counted, chunk = counted_at(args), getattr(args, "chunk", 1)
    if isinstance(counted, RoutingTrace):
        return served_tokens(counted, args.phase, chunk, keep_repeats=not args.no_repeats)
    if args.phase != "auto" or args.no_repeats:
        with_tokens(counted, "Choosing tokens by their phase, or leaving out repeats,")
    most = int(counted.tokens.sum(axis=0).max(initial=0))
    return counted, f"Counts of {most:,} tokens, of all phases: what is judged is judged on the same tokens."


def _memory(args: Namespace) -> tuple[pd.DataFrame, str]:
    """Of a model, by its name, or of the model that a trace or a dataset is of."""
    is_trace = is_dataset(args.file) or Path(args.file).suffix.lower() in {row.suffix for row in EXPORTS if row.read}
    model = served_model(counted_at(args).model.name if is_trace else args.file)
    table = serving_memory(model, args.context, args.batch or [1], args.bits)
    return table, f"{model.name}: an estimate from its config; keys, values and buffers are in 16 bits."


def planned(args: Namespace) -> dict[str, Any]:
    """Write the plan, and say what it is: engine, file, sizes, on what it was judged, and how the engine is started."""
    engine, target = engine_named(args.engine), Path(args.output)
    if target.suffix.lower() != engine.suffix:
        raise MoevizError(f"{engine.title} reads a {engine.suffix} file; got {quoted(target.name)}. Change the suffix.")
    target.parent.stat()
    trace, said = _tokens(args)
    sizes = (1, 0) if args.engine == "llama.cpp" else (args.devices, args.copies)
    plan = make_plan(trace, *sizes, num_layers=args.num_layers, layers_on_gpu=args.layers_on_gpu)
    target.write_bytes(export_plan(plan, args.engine))
    facts = {"engine": engine.title, "file": args.output, "holds": engine.reads, "devices": plan.devices}
    facts |= {"copies": plan.copies, "layers": len(plan.slots), "repaired": plan.repaired, "tokens": said}
    return facts | {"judged": plan.judged, "command": engine.command(plan, args.output)}


def plan_text(facts: dict[str, Any]) -> str:
    """The same for a terminal."""
    lines = [f"wrote {facts['file']} for {facts['engine']}: {facts['holds']}, {facts['layers']} layers"]
    if facts["repaired"]:
        lines.append(f"{facts['repaired']} slots were changed, so that no device has an expert twice")
    return "\n".join(
        [*lines, in_lines(facts["tokens"]), in_lines(facts["judged"]), "", f"start it with: {facts['command']}"]
    )
