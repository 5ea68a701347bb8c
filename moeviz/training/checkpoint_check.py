"""Are the routers of a run that goes on those that its checkpoint was saved with?

transformers' Trainer leaves routers and experts as they were where a checkpoint names them otherwise than the model
does, as of Mixtral and others whose experts are saved one by one (huggingface/transformers, issue 48805).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

EACH = 8  # numbers of a tensor by which it is known again
SAME = 0.01  # of their root mean square: what rounding to bfloat16 changes is less


def sample_of(places: Sequence[nn.Module]) -> list[list[float]]:
    """Some numbers of each router's parameters, in float32. None of parameters that lie in parts on several ranks."""
    return [[value for part in place.parameters() for value in _some(part)] for place in places]


def routers_differ(kept: Sequence[Sequence[float]], now: Sequence[Sequence[float]]) -> list[int]:
    """Find the routers whose numbers differ from a checkpoint's. What cannot be compared is not judged."""
    return [at for at, (old, new) in enumerate(zip(kept, now, strict=False)) if _differ(np.array(old), np.array(new))]


def _some(part: torch.Tensor) -> list[float]:
    if hasattr(part, "full_tensor") or not part.numel():
        return []
    flat = part.detach().flatten()
    return flat[:: max(len(flat) // EACH, 1)][:EACH].float().tolist()


def _differ(old: np.ndarray, new: np.ndarray) -> bool:
    return (
        old.shape == new.shape and bool((abs(old - new) > SAME * np.sqrt((old**2).mean())).any()) if len(old) else False
    )
