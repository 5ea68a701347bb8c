"""Estimate what routing costs to serve: `moeviz cost`."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from moeviz.cli.options import add_json, add_judged_on, add_phase, add_quiet, counted_at, number, numbers
from moeviz.cli.output import frame_text, print_tables, progress, visible_line
from moeviz.cli.words import Several
from moeviz.errors import MoevizError

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.routing_trace import Counted
    from moeviz.serving.staleness import Plans

JudgedOn = tuple[list[str], dict[str, "pd.DataFrame"]]  # sentences, and a table by its name

COSTS = {
    "cache": "hit rates of a cache of experts",
    "coverage": "experts that a batch of tokens needs",
    "prefetch": "how well the next experts are guessed",
    "placement": "how evenly devices are loaded",
}
HEADINGS = {
    "cache": "Hit rates of a cache of experts. bound: no policy has more; chance: a random set; _warm: second half.",
    "coverage": "Distinct experts that a batch of tokens needs; even: if tokens chose at random.",
    "prefetch": "Share of a token's experts that are among the first m that a predictor names.",
    "placement": "Load of the busiest device / the mean (imbalance), and the devices that a token reaches.",
}


BY_LABEL = {
    "cache": "Judged on the same tokens; static_warm judges each {} by the experts that the others use most.",
    "placement": "The column imbalance judges each {} by a plan made from the others, imbalance_fit the same tokens.",
}


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `moeviz cost`: a command for each cost, with options of its own."""
    costs = parser.add_subparsers(dest="what", required=True, metavar="COST")
    one, several = number(int, 1), numbers(int, 1)
    cache, coverage, prefetch, placement = (
        costs.add_parser(name, help=says, description=HEADINGS[name]) for name, says in COSTS.items()
    )
    for of in (cache, coverage, prefetch, placement):
        of.add_argument("file", metavar="FILE")
        add_phase(of)
        add_json(of)
        add_quiet(of)
    for of in (cache, placement):
        add_judged_on(of)
    cache.add_argument("--capacities", **several)
    cache.add_argument("--chunk", type=one, default=1, metavar="N")
    cache.add_argument("--tiers", type=one, nargs=2, metavar=("GPU", "RAM"))
    cache.add_argument("--shared", action="store_true")
    coverage.add_argument("--batch", **several)
    prefetch.add_argument("--texts", action=Several, metavar="TEXTS")
    prefetch.add_argument("--tokens", type=number(int, 2), metavar="N")
    prefetch.add_argument("--ahead", **numbers(int, 1, 8))
    placement.add_argument("--devices", type=one, metavar="N")
    placement.add_argument("--copies", type=number(int, 0), metavar="R")


def run(args: Namespace) -> int:
    if args.what == "cache" and args.shared and (args.judged_on or args.tiers):
        raise MoevizError("Sets and tiers are of each layer. Leave out --shared, or --judged-on and --tiers.")
    table, said = measure_cost(args)
    found = None
    if getattr(args, "judged_on", None) is not None:
        from moeviz.serving.staleness import kept_sets, placements

        plans = kept_sets(args.capacities) if args.what == "cache" else placements(args.devices, args.copies)
        found = judged_on_other(args, judged_tokens(args)[0], plans)
    print_estimate(table, said, HEADINGS[args.what], args.json, found)
    return 0


def print_estimate(
    table: "pd.DataFrame", said: str, heading: str, as_json: bool, other: "JudgedOn | None" = None
) -> None:
    """Print a table under its heading and a sentence on what it was judged by; or both as JSON."""
    says, tables = ([], {}) if other is None else other
    if as_json:
        print_tables({"rows": table} | tables, [said, *says])
        return
    texts = [frame_text(each.round(4)) for each in (table, *tables.values())]
    print("\n\n".join(["\n".join([heading, *map(in_lines, [said, *says])]), *texts]))


def judged_on_other(args: Namespace, made_on: "Counted", plans: "Plans") -> "JudgedOn":
    """Judge the plans of a recording on that of --judged-on. Raises `MissingField` if the two have no layer alike."""
    from moeviz.serving.staleness import plan_staleness, staleness_claims

    other, said = judged_tokens(args, args.judged_on)
    frame = plan_staleness(made_on, other, plans)
    return [said, *staleness_claims(made_on, other, frame)], {"judged_on": frame}


def in_lines(said: str) -> str:
    """Put each sentence on a line of its own.

    >>> in_lines("Made of 1.5 things. Kept.")
    'Made of 1.5 things.\\nKept.'
    """
    return re.sub(r"(?<=[.;]) (?=[A-Z])", "\n", said)


def measure_cost(args: Namespace) -> tuple["pd.DataFrame", str]:
    """Return the rows of a cost, and a sentence on the tokens by which they were judged."""
    from moeviz.metrics.words import label_word
    from moeviz.routing_trace import RoutingTrace

    if args.what == "prefetch" and args.texts:
        if _chooses_tokens(args):
            raise MoevizError("With --texts, all tokens count. Leave out --phase, --segment and --no-repeats.")
        return _ahead(args)
    counted, said = judged_tokens(args)
    table = _table(args, counted)
    if not isinstance(counted, RoutingTrace):
        if counted.group_kind == "label" and args.what in BY_LABEL:
            said = f"{said} {BY_LABEL[args.what].format(label_word(counted.model))}"
        return _known(table, said)
    if args.what == "prefetch":
        return table, f"{said} Learnt on the first half of these, judged on the second."
    if args.what == "placement":
        return table, f"{said} Planned on the first half of these, judged on the second; imbalance_fit on the first."
    return table, said


def _table(args: Namespace, counted: "Counted") -> "pd.DataFrame":
    from moeviz.serving.batches import USUAL_BATCHES, batch_coverage
    from moeviz.serving.cache import cache_tiers, expert_cache, shared_cache
    from moeviz.serving.placement import serving_placement
    from moeviz.serving.prefetch import prefetch_recall

    if args.what == "cache":
        if args.tiers:
            return cache_tiers(counted, *args.tiers, chunk=args.chunk)
        if args.shared:
            return shared_cache(counted, args.capacities)
        return expert_cache(counted, args.capacities, chunk=args.chunk)
    if args.what == "coverage":
        return batch_coverage(counted, args.batch or USUAL_BATCHES)
    if args.what == "prefetch":
        return by_layers_ahead(args, lambda layers: prefetch_recall(counted, layers_ahead=layers))
    return serving_placement(counted, args.devices, args.copies)


def by_layers_ahead(args: Namespace, recall: Callable[[int], "pd.DataFrame"]) -> "pd.DataFrame":
    """Return the recall for each look-ahead of --ahead, under the column `ahead` if it is given."""
    import pandas as pd

    if not args.ahead:
        return recall(1)
    tables = {layers: recall(layers) for layers in dict.fromkeys(args.ahead)}
    return pd.concat(tables, names=["ahead"]).reset_index("ahead").reset_index(drop=True)


def _known(table: "pd.DataFrame", said: str) -> tuple["pd.DataFrame", str]:
    """Return the columns that counts give, and the names of those that need more."""
    unknown = [name for name in table if table[name].isna().all()]
    return table.drop(columns=unknown), f"{said} Not known without the order of tokens: {', '.join(unknown)}."


def judged_tokens(args: Namespace, other: str | None = None) -> tuple["Counted", str]:
    """Return the trace or the counts by which serving is judged, and a sentence about its tokens. They may come from
    another file than the command's.
    """
    from moeviz.metrics.words import label_word
    from moeviz.routing_trace import RoutingTrace
    from moeviz.serving.requests import served_tokens

    counted, chunk = counted_at(args.file if other is None else other, args), getattr(args, "chunk", 1)
    where = "" if other is None else f"Judged on {visible_line(other)}: "
    if isinstance(counted, RoutingTrace):
        trace, said = served_tokens(counted, args.phase, chunk, keep_repeats=not args.no_repeats, segment=args.segment)
        return trace, where + said
    need_tokens(args, counted)
    most = int(counted.tokens.sum(axis=0).max(initial=0))
    judged = ": the plan is judged on the same tokens"
    if counted.group_kind == "label":
        judged = f", by {label_word(counted.model)}: {len(counted.groups)}"
    return counted, f"{where}Counts of {most:,} tokens, of all phases{judged}."


def need_tokens(args: Namespace, counted: "Counted") -> None:
    """Raise `MissingField` for counts if tokens are chosen among."""
    from moeviz.serving.requests import with_tokens

    if _chooses_tokens(args):
        with_tokens(counted, "Choosing tokens by their phase or segment, or leaving out repeats,")


def _chooses_tokens(args: Namespace) -> bool:
    return args.phase != "auto" or args.no_repeats or args.segment is not None


def _ahead(args: Namespace) -> tuple["pd.DataFrame", str]:
    """Return predictors of a model's experts, the next router among them, all on the same tokens of some texts."""
    from moeviz.analyses.ahead import trace_ahead
    from moeviz.analyses.pruning.result import split
    from moeviz.capture.models.load import LoadedModel
    from moeviz.capture.opening import load_model
    from moeviz.cli.corpus import texts_at
    from moeviz.labelled_texts import texts_that_ship
    from moeviz.serving.prefetch import prefetch_recall

    texts = texts_that_ship() if args.texts == ["ship"] else texts_at(args.texts)
    model = load_model(args.file)
    if not isinstance(model, LoadedModel):
        raise MoevizError(
            f"{visible_line(args.file)} runs in {model.info.backend}, where no router can be run early. Load the "
            "transformers checkpoint, or leave --texts out and give a trace."
        )
    if len(texts) > 1:
        texts = [pair for half in split(texts) for pair in half]  # so that each half of the tokens has every label
    says = partial(progress, says="read {:,} of {:,} texts")
    far = args.ahead or [1]
    trace, ahead = trace_ahead(model, [text for _, text in texts], tokens=args.tokens, layers_ahead=far, progress=says)
    early = dict(zip(far, ahead, strict=True))
    table = by_layers_ahead(args, lambda layers: prefetch_recall(trace, None, early[layers], layers))
    return table, (
        f"{len(trace.tokens):,} tokens of {len(texts):,} texts, half of each label's first. Learnt on the first half "
        "of the tokens, judged on the second; next_router learns nothing."
    )
