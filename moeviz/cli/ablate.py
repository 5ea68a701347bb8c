"""Rank the experts of a prompt by muting each of them: `moeviz ablate`."""

import json
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.options import add_json, add_model, add_prompt, add_segment, load, numbers, read_prompts
from moeviz.cli.output import frame_text, progress, records

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.model_info import ModelInfo


def arguments(parser: ArgumentParser) -> None:
    add_prompt(parser)
    parser.add_argument("--layers", **numbers(int, 0))
    add_segment(parser)
    add_model(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    prompts = read_prompts(args)
    from moeviz.analyses.what_if import ablate
    from moeviz.metrics.expert_names import with_names

    shown = partial(progress, says="muted {} of {} experts")
    model = load(args)
    how = {"chat": args.chat, "layers": args.layers, "segment": args.segment}
    ranking = with_names(ablate(model, prompts, **how, progress=shown), _names(model.info))
    print(json.dumps(records(ranking)) if args.json else frame_text(ranking.round(4)))
    return 0


def _names(model: "ModelInfo") -> "pd.DataFrame | None":
    """Name the experts of one of our own models, from the held-out texts that ship; None for any other."""
    from moeviz.embedded.recorded_routing import ROUTING, reference_routing
    from moeviz.metrics.expert_names import expert_names

    if model.name not in ROUTING or (texts := reference_routing(model.name)).model.layers != model.layers:
        return None
    return expert_names(texts)
