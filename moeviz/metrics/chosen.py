"""Which experts a token chose, as a table of true and false: for metrics that compare sets of experts."""

import numpy as np
from jaxtyping import Bool, Int16

from moeviz.metrics.budget import check_cells

MAX_CELLS, CELLS_A_SLOT = 2**24, 1024  # true or false takes a byte


def chosen_experts(experts: Int16[np.ndarray, "T K"], num_experts: int) -> Bool[np.ndarray, "T E"]:
    """True if the token has the expert in one of its slots.

    Raises `InvalidTrace` if that is a larger table than we make.
    """
    sizes = {"tokens": len(experts), "experts": num_experts}
    check_cells("Which token has which expert", experts.size, MAX_CELLS, CELLS_A_SLOT, **sizes)
    chosen = np.zeros((len(experts), num_experts), bool)
    token, slot = np.nonzero(experts >= 0)
    chosen[token, experts[token, slot]] = True
    return chosen
