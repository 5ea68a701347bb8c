"""Negative controls: each breaks a mechanism of a system on purpose, and claims about it must miss then.

A claim that holds of a broken system as well says nothing of the mechanism.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from history_checks.claims import CHECKS, Claim

Claims = Callable[[bool, int], list[Claim]]  # quick and seed, as `claims` of a system's checks


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """One mechanism, how to break it, and the claims that must miss while it is broken."""

    broken: str  # in words: "the gate stays as it starts"
    swap: tuple[Any, str, Any]  # a module or class, its name for the mechanism, and what stands in for that
    misses: tuple[str, ...]  # parts of `what` of these claims
    asks: Claims  # those claims, and few others: each is measured again

    def owns(self, claim: Claim) -> bool:
        """True if this is the control of a claim. What is no check needs none."""
        return claim.kind in CHECKS and any(part in claim.what for part in self.misses)


@contextmanager
def swapped(owner: Any, name: str, instead: Any) -> Iterator[None]:
    """While it lasts, another stands in for a name of a module or class, everywhere in this process."""
    kept = getattr(owner, name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def controlled(claims: Sequence[Claim], controls: Sequence[Control], quick: bool, seed: int) -> pd.DataFrame:
    """Each claim measured again with its mechanism broken, by each control that owns and asks it: it must always miss.

    One row per claim, in their order: of the first control under which it does not miss, or else of the first. Columns:
    control str (what was broken; empty where there is none) · broken float64 (the figure then; infinite if measuring
    it ended with an error, NaN if it was not measured) · caught bool (whether the claim missed then; True of what is no
    check).
    """
    owners = [[control for control in controls if control.owns(claim)] for claim in claims]
    again = {control: _while_broken(control, quick, seed) for control in dict.fromkeys(chain(*owners))}
    rows = []
    for claim, own in zip(claims, owners, strict=True):
        measured = {control.broken: _of_claim(again[control], claim) for control in own}
        asked = {broken: found for broken, found in measured.items() if found is not None} or measured
        tried = [_row(claim, broken, found) for broken, found in asked.items()]
        rows.append(next((row for row in tried if not row["caught"]), [*tried, _row(claim)][0]))
    return pd.DataFrame(rows).astype({"control": "str", "broken": np.float64, "caught": bool})


def _of_claim(found: dict[str, Claim] | Exception, claim: Claim) -> Claim | None:
    """Return the claim as it was measured with its mechanism broken; one that missed, if that ended with an error."""
    if isinstance(found, Exception):
        return replace(claim, ours=math.inf, passed=False, remark=repr(found))
    return found.get(claim.what)


def _row(claim: Claim, broken: str = "", found: Claim | None = None) -> dict[str, Any]:
    return {
        "control": broken,
        "broken": math.nan if found is None else float(found.ours),
        "caught": claim.kind not in CHECKS if found is None else not found.passed,
    }


def _while_broken(control: Control, quick: bool, seed: int) -> dict[str, Claim] | Exception:
    """Return the claims by what they are about, or the error with which the broken system ended."""
    try:
        with swapped(*control.swap):
            return {claim.what: claim for claim in control.asks(quick, seed)}
    except Exception as error:  # of any kind: a check that ends with an error has noticed
        return error
