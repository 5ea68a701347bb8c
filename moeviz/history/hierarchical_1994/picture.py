"""How often a system has to see its data: a tree fitted by expectation maximisation, next to gradient descent."""

import numpy as np
import pandas as pd

from moeviz.history.hierarchical_1994.model import Hierarchy
from moeviz.history.local_experts_1991 import model as gradient_descent

TREE, GRADIENT = "tree of 1994, expectation maximisation", "mixture of 1991, gradient descent"


def learning_curves(result: Hierarchy) -> pd.DataFrame:
    """Average squared error on the training speakers by passes over the data, for the tree and for four local experts.

    Both have the same samples, answers and seed; the mixture of 1991 is trained by its third error function and stops
    at 0.08.

    One row per system and pass from the first on; for the mixture, passes at about equal ratios. Columns: system str ·
    passes int64 · squared_error float64 · goal float64 (0.08, where the paper of 1991 stops).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), figure 5 and table 1, which are about robot
    dynamics.
    """
    rival = gradient_descent.train(seed=result.settings["seed"]).error_by_epoch
    passes = np.unique(np.geomspace(1, len(rival) - 1, 100).round().astype(np.int64))
    curves = {
        TREE: (np.arange(1, len(result.squared_error)), result.squared_error[1:]),
        GRADIENT: (passes, rival[passes]),
    }
    frames = [
        pd.DataFrame({"system": pd.Series([name] * len(at), dtype="str"), "passes": at, "squared_error": error})
        for name, (at, error) in curves.items()
    ]
    return pd.concat(frames, ignore_index=True).assign(goal=gradient_descent.STOP_AT)
