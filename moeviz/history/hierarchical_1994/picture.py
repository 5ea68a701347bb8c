"""How a tree divides the plane of vowels, on which one cut is enough, and a square that needs two."""

from functools import cache

import numpy as np
import pandas as pd

from moeviz.history.hierarchical_1994.model import BRANCHES, Hierarchy, train
from moeviz.history.hierarchical_1994.two_cuts import two_cuts
from moeviz.history.shared.plane import ends_of, plane_of
from moeviz.history.shared.vowels import ONES, VOWELS, Vowels, encode

SQUARE_SEED = 1


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


def square_lines() -> pd.DataFrame:
    """How a tree divides the points that need two cuts, trained with seed 1. Columns: those of `tree_lines`.

    `vowel` is the desired answer, 1 or 0, and f1 and f2 are how far a point is to the right of the middle, and above.

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), figure 1; the points are made up.
    """
    frame = tree_lines(_square(), two_cuts())
    answers = {vowel: str(int(number in ONES)) for number, vowel in enumerate(VOWELS)}
    return frame.assign(vowel=frame["vowel"].map(answers | {"": ""}))


@cache
def _square() -> Hierarchy:
    """With seed 0 the tree is one of the few that stay where they are of little use."""
    return train(two_cuts(), seed=SQUARE_SEED)
