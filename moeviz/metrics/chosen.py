"""Which experts a token chose, as a table of true and false: for metrics that compare sets of experts."""

import numpy as np
from jaxtyping import Bool, Int16


def chosen_experts(experts: Int16[np.ndarray, "T K"], num_experts: int) -> Bool[np.ndarray, "T E"]:
    """True if the token has the expert in one of its slots."""
    chosen = np.zeros((len(experts), num_experts), bool)
    token, slot = np.nonzero(experts >= 0)
    chosen[token, experts[token, slot]] = True
    return chosen
