"""What `moeviz history check` prints: each claim, and how many of them pass."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from history_checks.claims import CHECKS, MEASURED, MECHANISM, MISPRINT
from history_checks.reproduction_claims import check_claims

MANY = 1e6  # numbers that large are counts, of which every digit is shown


def check(names: Sequence[str], quick: bool, seed: int, controls: bool, show: Callable[[str], None]) -> pd.DataFrame:
    """Check the claims about these systems, or about all; `show` is given each system's table as soon as it is ready.

    Returns one row a claim.
    """
    frames, before = [], _cpu_time()
    for frame in check_claims(names, quick, seed, controls):
        frames.append(frame)
        show(_text(frame))
    found = pd.concat(frames, ignore_index=True)
    show(f"{summary(found)} CPU time: {_cpu_time() - before:.0f} s.")
    return found


def _cpu_time() -> float:
    """Seconds of all processes that have ended here; 0 on Windows, which does not say."""
    spent = os.times()
    return spent.children_user + spent.children_system


def holds(found: pd.DataFrame) -> bool:
    """Return whether every claim passed, and missed where its mechanism was broken, if that was asked."""
    return bool(found["passed"].all() and found.get("caught", found["passed"]).all())


def summary(found: pd.DataFrame) -> str:
    """Say how many checks there are, how many passed, and what is no check."""
    measured = found[found["kind"] == MEASURED]
    said = [f"{measured['passed'].sum()} of {len(measured)} checks pass"]
    if "caught" in found:
        said.append(f"{measured['caught'].sum()} miss, as they must, where their mechanism is broken")
    if len(parts := found[found["kind"] == MECHANISM]):
        said.append(f"{parts['passed'].sum()} of {len(parts)} mechanisms are right")
        said += [f"{parts['caught'].sum()} are noticed where they are broken"] if "caught" in found else []
    others = found.loc[~found["kind"].isin(CHECKS), "kind"].value_counts()
    said += [f"no checks: {', '.join(f'{many} {kind}' for kind, many in others.items())}"] if len(others) else []
    return "; ".join(said) + "."


def _text(frame: pd.DataFrame) -> str:
    """Two lines a claim: pass or fail and what; ours, the paper's and the tolerance. A remark after its last.

    With controls a third: the figure with the mechanism broken, and whether the claim missed then. Of a mechanism it is
    one line: what it is, the claim, how far off that is, and with controls whether a breakage is noticed.
    """
    lines = [frame["system"].iloc[0]]
    remarks = [*frame["remark"], ""]
    for place, claim in enumerate(frame.itertuples()):
        if claim.kind == MECHANISM:
            lines.append(_mechanism(claim))
            continue
        printed = "" if pd.isna(claim.paper) else f", printed {_number(claim.paper)}"
        kind = "" if claim.kind in (MEASURED, MISPRINT) else f", {claim.kind}"
        lines.append(f"  {_verdict(claim)}  {claim.what}")
        lines.append(f"        ours {_number(claim.ours)}{printed} ({claim.tolerance}{kind})")
        if getattr(claim, "control", ""):
            verdict = "misses, as it must" if claim.caught else "DOES NOT MISS"
            lines.append(f"        broken {_number(claim.broken)}: {claim.control}; {verdict}")
        elif not getattr(claim, "caught", True):
            lines.append("        NO CONTROL: nothing is known to make it miss")
        if claim.remark and claim.remark != remarks[place + 1]:
            lines.append(f"        {claim.remark}")
    return "\n".join(lines) + "\n"


def _mechanism(claim: Any) -> str:
    said, verdict = f"{claim.what}: off by {claim.ours:.2g}", "right" if claim.passed else "FAIL"
    if hasattr(claim, "caught"):
        said += f", broken by {claim.broken:.2g}"
        verdict = verdict if not claim.passed else "noticed" if claim.caught else "NOT NOTICED"
    return f"  {verdict}  {said}"


def _verdict(claim: Any) -> str:
    """A misprint is neither passed nor failed."""
    if not claim.passed:
        return "FAIL"
    return {MEASURED: "pass", MISPRINT: "misprint"}.get(claim.kind, "true")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= MANY and float(value).is_integer() else f"{value:,.7g}"
