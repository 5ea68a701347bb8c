"""Made-up data that one cut does not part: the tree of 1994 needs its root for them, and the gates below it.

A square in four quarters, each with a line of its own through its middle. Left and right of the root's cut, the gates
below it have to cut the halves again, and every expert then has one line to find.
"""

import numpy as np

from moeviz.history.shared.vowels import Vowels

SAMPLES = 600
MADE_UP = "made-up points in a square, whose four quarters have a line each"
# By quarter, (right, upper): which way its line faces, as (along x, along y).
FACES = {(0, 0): (1, 0), (0, 1): (0, 1), (1, 0): (0, -1), (1, 1): (-1, 0)}


def two_cuts(seed: int = 0) -> Vowels:
    """600 points, uniform in a square of 2 by 2, that are to be answered 1 on one side of their quarter's line.

    In the form that the trees are trained on: the first 400 are to learn from.
    """
    points = np.random.default_rng(seed).uniform(-1, 1, (SAMPLES, 2))
    quarter = (points > 0).astype(int)
    face = np.array([FACES[right, upper] for right, upper in quarter])
    from_middle = points - np.where(quarter, 0.5, -0.5)
    one = (from_middle * face).sum(axis=1) > 0
    speaker = np.repeat(np.arange(SAMPLES // 8), 8) + 1
    return Vowels(1000 * points, np.where(one, 0, 1), speaker, MADE_UP, measured=False)
