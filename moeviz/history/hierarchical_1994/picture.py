"""How a tree divides the plane of vowels, and how often it has to see its data, next to gradient descent."""

import numpy as np
import pandas as pd

from moeviz.history.hierarchical_1994.model import BRANCHES, Hierarchy
from moeviz.history.local_experts_1991 import model as gradient_descent
from moeviz.history.shared.plane import ends_of, plane_of
from moeviz.history.shared.vowels import VOWELS, Vowels, encode

TREE, GRADIENT = "tree of 1994, expectation maximisation", "mixture of 1991, gradient descent"


def tree_lines(result: Hierarchy, data: Vowels) -> pd.DataFrame:
    """Samples, and the lines of all gates and experts in use: how a tree divides the plane of two formants.

    A sample belongs to the likeliest leaf. An expert's line is where its output is 0.5, and a gate's is where it has
    no preference; a lower gate is drawn where both of its leaves have samples, or its line divides nothing.

    One row per sample, and two per line, its ends. Columns: what str (sample, line or gate) · f1, f2 float64 (kHz) ·
    expert int16 (the leaf; for gates 0) · vowel str ("" for lines) · right bool (whether the tree's answer is on the
    right side of 0.5; True for lines) · line str (the gate or leaf; "" for samples).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), figure 1.
    """
    (inputs, desired), tree = encode(data), result.tree()
    leaf = tree.leaves(inputs).argmax(axis=1)
    plane = plane_of(inputs)
    won = np.unique(leaf).tolist()
    gates = {f"branch {i}": line for i, line in enumerate(tree.gates) if {BRANCHES * i, BRANCHES * i + 1} <= set(won)}
    lines = [("line", e, f"leaf {e}", tree.experts[e]) for e in won]
    lines += [("gate", 0, name, line) for name, line in ({"root": tree.root} | gates).items()]
    ends = [
        {"what": what, "f1": f1, "f2": f2, "expert": expert, "vowel": "", "right": True, "line": name}
        for what, expert, name, line in lines
        for f1, f2 in ends_of(line, *plane)
    ]
    samples = {
        "what": "sample",
        "f1": inputs[:, 0],
        "f2": inputs[:, 1],
        "expert": leaf,
        "vowel": [VOWELS[vowel] for vowel in data.vowel],
        "right": (tree.answer(inputs) > 0.5) == (desired > 0.5),
    }
    frame = pd.concat([pd.DataFrame(samples).assign(line=""), pd.DataFrame(ends)], ignore_index=True)
    return frame.astype({"expert": np.int16})


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
