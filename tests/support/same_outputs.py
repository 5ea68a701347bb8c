"""Whether two engines put out the same, but for rounding."""

import numpy as np


def assert_same_outputs(ours, theirs, rounding: float) -> None:
    """Every figure that one of them has, to so much of its largest value."""
    mine, others = ours.arrays(), theirs.arrays()
    assert list(mine) == list(others)
    for name, values in others.items():
        assert np.abs(values).max() > 0 and np.abs(mine[name] - values).max() < rounding * np.abs(values).max(), name
