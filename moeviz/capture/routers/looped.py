"""Models that run some of their layers several times in one forward, and how often each runs.

The survey (`tests/survey`) reads every MoE architecture of transformers 5.24: these call a router more than
once in a forward, and no other does. What answers more often than it should in any other model is no layer of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from moeviz.capture.routers.declared import Router


class Loop(NamedTuple):
    """Layers from `start` to `end` (exclusive) run `passes` times, one pass after the other."""

    start: int
    end: int
    passes: int


def _inkling2(config: object) -> Loop:
    return Loop(config.loop_layer_index_start, config.loop_layer_index_end, config.loop_num_passes)


LOOPED: dict[str, Callable[[object], Loop]] = {"inkling2_loop_text": _inkling2}  # by config.model_type


def order_of(model: nn.Module, routers: Sequence[Router]) -> tuple[int, ...]:
    """In which order a forward of `model` calls its routers: their indices, each once unless its layer is in a loop."""
    config = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    looped = LOOPED.get(getattr(config, "model_type", ""))
    if looped is None:
        return tuple(range(len(routers)))
    loop = looped(config)
    before, inside, after = [], [], []
    for index, router in enumerate(routers):
        place = before if router.layer < loop.start else inside if router.layer < loop.end else after
        place.append(index)
    return (*before, *inside * loop.passes, *after)
