"""Models that run some layers several times in one forward: every pass becomes layers of its own."""

from dataclasses import replace

from moeviz.capture.record.listen import Heard, Recording
from moeviz.capture.routers.declared import Router

LAYER_KIND = "unrolled layer"


def unrolled(recording: Recording) -> Recording:
    """What was heard with each call of a router in a forward as a layer; as it is where each was called once.

    A layer's index is then its depth: layers 0, 1 and 2 of which 1 and 2 run twice become 0, 1, 2, 3 and 4.
    """
    forwards = len(recording.read)
    order = recording.calls[: len(recording.calls) // max(forwards, 1)]
    once = len(order) == len(recording.routers)
    if once or recording.calls != order * forwards or len(set(order)) != len(recording.routers):
        return recording  # and where the calls are no whole number of the same passes, `check` says so
    routers, heard, depth = [], [], 0
    for place, index in enumerate(order):
        router, last = recording.routers[index], routers[-1].layer - depth if routers else -1
        if router.layer <= last:  # a new pass begins
            depth += last + 1 - router.layer
        routers.append(replace(router, layer=router.layer + depth))
        heard.append(_call(recording.heard[index], order[:place].count(index), order.count(index)))
    return replace(recording, routers=tuple(routers), heard=heard)


def _call(heard: Heard, number: int, of: int) -> Heard:
    """What a router answered in one of its calls in each forward."""
    parts = {name: getattr(heard, name)[number::of] for name in ("experts", "weights", "logits")}
    return replace(heard, **parts)


def is_unrolled(routers: tuple[Router, ...]) -> bool:
    """True where a router stands for several layers."""
    return len({router.path for router in routers}) < len(routers)
