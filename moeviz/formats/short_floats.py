"""float32 numbers as text, with no more digits than they need."""

import numpy as np
from jaxtyping import Float32, Float64


def short_floats(values: Float32[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    """Doubles that print with the fewest digits that still round to the same float32.

    >>> short_floats(np.float32([0.3])).tolist(), np.float32([0.3]).tolist()
    ([0.3], [0.30000001192092896])
    """
    short = values.astype("U32").astype(np.float64)
    # Decimal to double to float32 rounds twice; where that goes astray, all digits it is.
    return np.where(short.astype(np.float32) == values, short, values.astype(np.float64))
