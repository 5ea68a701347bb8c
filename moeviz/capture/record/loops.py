"""Models that run some layers several times in one forward (`looped.py`): every pass becomes layers of its own."""

from collections.abc import Sequence
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
    layers = unrolled_layers([router.layer for router in recording.routers], order)
    routers = tuple(replace(recording.routers[i], layer=layer) for i, layer in zip(order, layers, strict=True))
    heard = [
        _call(recording.heard[index], order[:place].count(index), order.count(index))
        for place, index in enumerate(order)
    ]
    return replace(recording, routers=routers, heard=heard, order=tuple(range(len(routers))))


def unrolled_layers(layers: Sequence[int], order: Sequence[int]) -> list[int]:
    """The depth of each call in a forward: `layers` are those of the routers, `order` the order of their calls.

    >>> unrolled_layers([0, 1, 2], [0, 1, 2, 1, 2])
    [0, 1, 2, 3, 4]
    """
    depths: list[int] = []
    added = 0
    for layer in (layers[index] for index in order):
        last = depths[-1] - added if depths else -1
        if layer <= last:  # a new pass begins
            added += last + 1 - layer
        depths.append(layer + added)
    return depths


def _call(heard: Heard, number: int, of: int) -> Heard:
    """What a router answered in one of its calls in each forward."""
    parts = {name: getattr(heard, name)[number::of] for name in ("experts", "weights", "logits")}
    return replace(heard, **parts)


def is_unrolled(routers: tuple[Router, ...]) -> bool:
    """True where a router stands for several layers."""
    return len({router.path for router in routers}) < len(routers)
