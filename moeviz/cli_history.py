"""What `moeviz history` lists, trains and checks."""

import pandas as pd

from moeviz.capture.mixtures import from_adaptive_mixtures
from moeviz.errors import MoevizError
from moeviz.history.adaptive_mixtures import train
from moeviz.history.check import acceptance
from moeviz.history.published_counts import published_counts
from moeviz.history.vowels import stand_in
from moeviz.routing_trace import RoutingTrace

SYSTEMS = {"local-experts": "Adaptive mixtures of local experts, 1991: vowels told apart by four lines and a gate"}

UNITS = {"million": 1e6, "billion": 1e9}


def systems() -> pd.DataFrame:
    """The systems that can be trained here."""
    return pd.DataFrame([{"name": name, "what": what} for name, what in SYSTEMS.items()])


def trained(name: str, seed: int) -> RoutingTrace:
    """Train a system, and give its routing: a layer is a recorded epoch."""
    if name not in SYSTEMS:
        raise MoevizError(f"There is no system {name!r} here; there are {', '.join(SYSTEMS)}.")
    data = stand_in()
    return from_adaptive_mixtures(train(data, seed=seed), data)


def checked() -> pd.DataFrame:
    """Every acceptance figure: ours, the paper's, tolerance, and whether it holds."""
    counts = published_counts()
    printed = pd.DataFrame(
        {
            "what": "parameters of " + counts["system"] + ", " + counts["counted"],
            "ours": counts["ours"] / counts["unit"].map(UNITS),
            "paper": counts["printed"],
            "tolerance": "to the printed digit, " + counts["unit"],
            "passed": counts["agrees"],
            "remark": counts["remark"],
        }
    )
    rows = acceptance()
    return pd.concat([rows.rename(columns={"data": "remark"}), printed], ignore_index=True)
