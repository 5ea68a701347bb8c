"""In which ways several traces differ, each in a sentence of computed figures; and what luck alone could explain."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from moeviz.metrics.words import percent

CLEAR = 3.3  # standard errors of a difference: luck brings as much once in a thousand times


def said_of_several(figures: pd.DataFrame, repetition: pd.DataFrame | None, one_text: bool) -> list[str]:
    """One sentence for each of the figures that the traces have; a first one where their texts differ.

    Columns: those of `figures_of_several`, and of `repetition_of_several` (None where no trace tells).
    """
    says = [] if one_text else ["These traces are not of the same tokens: part of what differs is due to the texts."]
    if repetition is not None and (said := _of_repetition(figures, repetition)):
        says.append(said)
    told = figures[figures["information"].notna()]
    if len(told):
        bits = _each(told, lambda row: f"{row.information:.2f} ({_known(row.shuffled)})")
        says.append(f"Bits that the expert tells about the kind of text (with labels shuffled): {bits}.")
    told = figures[figures["busiest"].notna()]
    if len(told):
        loads = _each(told, lambda row: f"{row.busiest:.2f} ({row.busiest_by_lot:.2f})")
        says.append(f"Load of the busiest expert, × the mean (at random): {loads}.")
    sets = _each(figures, lambda row: f"{row.sets:,.0f} of {row.possible_sets:,.0f} ({row.sets_by_lot:,.0f})")
    return [*says, f"Different sets of experts that tokens go to (at random): {sets}."]


def _of_repetition(figures: pd.DataFrame, repetition: pd.DataFrame) -> str | None:
    """Who repeats most and who least, if luck does not explain the difference; else that it could."""
    told = figures[figures["repetition"].notna()]
    if len(told) < 2:
        return None
    ranked = told.sort_values("repetition", kind="stable")
    least, most = ranked.iloc[0], ranked.iloc[-1]
    apart = float(most["repetition"] - least["repetition"])
    one, other = (_error(repetition[repetition["trace"] == each["trace"]]) for each in (least, most))
    figure = _each(told, lambda row: _signed(row.repetition))
    if apart <= CLEAR * float(np.hypot(one, other)):
        return f"How often the first choice repeats, beyond chance, differs by no more than luck explains: {figure}."
    return (
        f"Beyond chance, the first choice repeats most in {most['trace']} and least in {least['trace']}: {figure}. "
        f"By their loads alone: {_each(told, lambda row: _signed(row.repetition_by_load))}."
    )


def _error(rows: pd.DataFrame) -> float:
    """Standard error of the mean over layers, as if all layers were one: they are of the same tokens."""
    pairs = rows["pairs"].astype(float)
    some = rows[pairs > 0]
    if some.empty:
        return np.inf
    share, pairs = some["share"].clip(0.01, 0.99), pairs[pairs > 0]
    return float((np.sqrt(share * (1 - share) / pairs) / (1 - some["chance"])).mean())


def _signed(part: float) -> str:
    """A share that may be below chance."""
    return f"−{percent(-part)}" if part < 0 else percent(part)


def _known(bits: float) -> str:
    return "not known" if pd.isna(bits) else f"{bits:.2f}"


def _each(figures: pd.DataFrame, say: Callable[[Any], str]) -> str:
    """What each trace comes to, by name."""
    return ", ".join(f"{row.trace} {say(row)}" for row in figures.itertuples(index=False))
