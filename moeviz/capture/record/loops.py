"""Models that run some layers several times in one forward (`looped.py`): every pass becomes layers of its own."""

from dataclasses import replace

from moeviz.capture.record.listen import Heard, Recording
from moeviz.capture.routers.declared import Router

LAYER_KIND = "unrolled layer"


def unrolled(recording: Recording) -> Recording:
    """A checked recording with each call of a router in a forward as a layer; as it is where each is called once.

    A layer's index is then its depth: layers 0, 1 and 2 of which 1 and 2 run twice become 0, 1, 2, 3 and 4.
    """
    order = recording.order
    if len(order) == len(recording.routers):
        return recording
    routers, heard, depth = [], [], 0
    for place, index in enumerate(order):
        router, last = recording.routers[index], routers[-1].layer - depth if routers else -1
        if router.layer <= last:  # a new pass begins
            depth += last + 1 - router.layer
        routers.append(replace(router, layer=router.layer + depth))
        heard.append(_call(recording.heard[index], order[:place].count(index), order.count(index)))
    return replace(recording, routers=tuple(routers), heard=heard, order=tuple(range(len(routers))))


def _call(heard: Heard, number: int, of: int) -> Heard:
    """What a router answered in one of its calls in each forward."""
    parts = {name: getattr(heard, name)[number::of] for name in ("experts", "weights", "logits")}
    return replace(heard, **parts)


def is_unrolled(routers: tuple[Router, ...]) -> bool:
    """True where a router stands for several layers."""
    return len({router.path for router in routers}) < len(routers)
