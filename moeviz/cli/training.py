"""What `moeviz training` says of a run."""

from argparse import Namespace
from typing import Any

import pandas as pd

from moeviz.cli.importing import options_of
from moeviz.cli.io import records
from moeviz.cli.terminal import frame_text, visible_line
from moeviz.errors import InvalidTrace
from moeviz.training.reading import read_run
from moeviz.training.recorded.rules import ALARM_KINDS
from moeviz.training.recorded.run import TrainingRun

ALARM = 3  # exit status where an alarm is on
COLUMNS = ["max_violation", "normalised_entropy", "router_entropy", "aux", "z_loss", "mass"]


def run_of(args: Namespace) -> TrainingRun:
    """The run that was asked for. Raises `InvalidTrace` for a kind of alarm that there is not."""
    if unknown := [kind for kind in args.ignore if kind not in ALARM_KINDS]:
        raise InvalidTrace(f"There is no alarm {unknown[0]!r}. Choose from {', '.join(ALARM_KINDS)}.")
    return read_run(args.run, options_of(args))


def alarms_on(run: TrainingRun, ignore: list[str]) -> pd.DataFrame:
    """Alarms that are on at the last log, without kinds that do not matter here."""
    return run.alarms[run.alarms["on"] & ~run.alarms["kind"].isin(ignore)]


def training_text(run: TrainingRun, ignore: list[str], rows: int) -> str:
    """For a terminal: alarms, what to do, facts, and the last logs."""
    on = alarms_on(run, ignore)
    over = run.alarms[~run.alarms["on"]]
    lines = [visible_line(f"ALARM  {says}") for says in on["says"]] or [_quiet(run)]
    lines += [f"{kind}: {ALARM_KINDS[kind].to_do}" for kind in dict.fromkeys(on["kind"])]
    lines += [
        visible_line(f"over   {alarm['says']}; over at step {alarm['over']:.0f}") for alarm in over.to_dict("records")
    ]
    lines += [visible_line(text) for text in (*run.facts.said, *run.notes)]
    return "\n".join([*lines, "", frame_text(last_logs(run, rows).round(3))])


def _quiet(run: TrainingRun) -> str:
    return "No alarm is on." if run.facts.source == "moeviz" else "This source has no alarms."


def last_logs(run: TrainingRun, rows: int) -> pd.DataFrame:
    """The last logs, each with the worst layer of the figures that are known."""
    worst = run.summary.pivot(index="step", columns="figure", values="worst").reindex(columns=COLUMNS)
    table = run.logs.drop(columns=["steps", "aux_coefficient"]).merge(
        worst, how="left", left_on="step", right_index=True
    )
    dead = run.layers[run.layers["dead"] >= 0].groupby("step")["dead"].sum()
    table["dead"] = table["step"].map(dead)
    return table.tail(rows).dropna(axis="columns", how="all")


def training_json(run: TrainingRun, ignore: list[str], rows: int) -> dict[str, Any]:
    """The same as JSON."""
    facts = {"name": run.name, "source": run.facts.source, "model": run.facts.model, "said": run.facts.said}
    alarms = {"on": records(alarms_on(run, ignore)), "over": records(run.alarms[~run.alarms["on"]])}
    return facts | {"alarms": alarms, "notes": run.notes, "logs": records(last_logs(run, rows))}
