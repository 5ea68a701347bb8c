"""Look for alarms in a training run: `moeviz watch`."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from moeviz.cli.options import add_import_options, add_json, import_options, number
from moeviz.cli.output import FOUND, frame_text, records, visible_line
from moeviz.cli.words import Several
from moeviz.errors import InvalidTrace

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.training.recorded.run import TrainingRun

COLUMNS = ["max_violation", "normalised_entropy", "router_entropy", "aux", "z_loss", "mass"]


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--rows", type=number(int, 1), default=10, metavar="N")
    parser.add_argument("--ignore", action=Several, split=",", default=[], metavar="KIND")
    add_json(parser)
    add_import_options(parser)


def run(args: Namespace) -> int:
    found = run_of(args)
    run_as = (found, args.ignore, args.rows)
    print(json.dumps(run_json(*run_as)) if args.json else run_text(*run_as))
    unnamed = found.facts.source != "moeviz" and found.alarms_on  # so that none can be ignored
    return FOUND if len(alarms_on(found, args.ignore)) or unnamed else 0


def run_of(args: Namespace) -> "TrainingRun":
    """Read the run. Raises `InvalidTrace` for an unknown kind of alarm, and if it is not a run."""
    from moeviz.training.reading import read_run
    from moeviz.training.recorded.rules import ALARM_KINDS

    if unknown := [kind for kind in args.ignore if kind not in ALARM_KINDS]:
        raise InvalidTrace(f"There is no alarm {unknown[0]!r}. Choose one of {', '.join(ALARM_KINDS)}.")
    return read_run(args.run, import_options(args))


def alarms_on(run: "TrainingRun", ignore: list[str]) -> "pd.DataFrame":
    """Return the alarms that are on at the last log, without the kinds to ignore."""
    return run.alarms[run.alarms["on"] & ~run.alarms["kind"].isin(ignore)]


def run_text(run: "TrainingRun", ignore: list[str], rows: int) -> str:
    """Return a run as text: its alarms, what to do, facts, and the last logs."""
    from moeviz.training.recorded.claims import quiet_caption
    from moeviz.training.recorded.rules import ALARM_KINDS

    on = alarms_on(run, ignore)
    over = run.alarms[~run.alarms["on"]]
    lines = [visible_line(f"ALARM  {says}") for says in on["says"]]
    lines = lines or ["All alarms that are on were ignored." if run.alarms["on"].any() else quiet_caption(run)]
    lines += [f"{kind}: {ALARM_KINDS[kind].to_do}" for kind in dict.fromkeys(on["kind"])]
    lines += [
        visible_line(f"over   {alarm['says']}; over at step {alarm['over']:.0f}") for alarm in over.to_dict("records")
    ]
    lines += [visible_line(text) for text in (*run.facts.said, *run.notes)]
    return "\n".join([*lines, "", frame_text(last_logs(run, rows).round(3))])


def last_logs(run: "TrainingRun", rows: int) -> "pd.DataFrame":
    """Return the last logs, each with the worst layer of the figures that are known."""
    worst = run.summary.pivot(index="step", columns="figure", values="worst").reindex(columns=COLUMNS)
    table = run.logs.drop(columns=["steps", "aux_coefficient"]).merge(
        worst, how="left", left_on="step", right_index=True
    )
    table["alarms"] = table["alarms"].where(table["alarms"] >= 0)
    dead = run.layers[run.layers["dead"] >= 0].groupby("step")["dead"].sum()
    table["dead"] = table["step"].map(dead)
    return table.tail(rows).dropna(axis="columns", how="all")


def run_json(run: "TrainingRun", ignore: list[str], rows: int) -> dict[str, Any]:
    """Return a run's alarms, notes and last logs, for JSON."""
    facts = {"name": run.name, "source": run.facts.source, "model": run.facts.model, "said": run.facts.said}
    alarms: dict[str, Any] = {"number": run.alarms_on}
    alarms |= {"on": records(alarms_on(run, ignore)), "over": records(run.alarms[~run.alarms["on"]])}
    return facts | {"alarms": alarms, "notes": run.notes, "logs": records(last_logs(run, rows))}
