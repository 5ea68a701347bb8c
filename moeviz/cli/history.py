"""What `moeviz history` lists, trains and checks."""

from collections.abc import Callable, Sequence

import pandas as pd

from moeviz.history.checked import checked
from moeviz.history.systems import SYSTEMS, part, train
from moeviz.routing_trace import RoutingTrace

MANY = 1e6  # numbers that large are counts, of which every digit is shown


def systems() -> pd.DataFrame:
    """The systems that can be trained here."""
    return pd.DataFrame([{"name": name, "year": row.year, "what": row.what} for name, row in SYSTEMS.items()])


def trained(name: str, seed: int, note: Callable[[str], None]) -> RoutingTrace:
    """Train a system with its default settings, and return its routing. `note` is told of the progress, ten times."""
    told = [0]

    def watch(done: float, says: str) -> None:
        if done * 10 >= told[0]:
            told[0] = int(done * 10) + 1
            note(says)

    return part(name, "trace").trace_of(train(name, seed, watch))


def check(names: Sequence[str], quick: bool, show: Callable[[str], None]) -> pd.DataFrame:
    """All claims about these systems, or about all; `show` is given each system's table as soon as it is ready."""
    frames = []
    for frame in checked(names, quick):
        frames.append(frame)
        show(_text(frame))
    return pd.concat(frames, ignore_index=True)


def _text(frame: pd.DataFrame) -> str:
    """Two lines a claim: pass or fail and what; ours, the paper's and the tolerance. A remark after its last."""
    lines = [frame["system"].iloc[0]]
    remarks = [*frame["remark"], ""]
    for number, claim in enumerate(frame.itertuples()):
        printed = "" if pd.isna(claim.paper) else f", printed {_number(claim.paper)}"
        lines.append(f"  {'pass' if claim.passed else 'FAIL'}  {claim.what}")
        lines.append(f"        ours {_number(claim.ours)}{printed} ({claim.tolerance})")
        if claim.remark and claim.remark != remarks[number + 1]:
            lines.append(f"        {claim.remark}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= MANY and value == int(value) else f"{value:,.7g}"
