"""Costs of serving a routing: expert caches, batches, prefetching, placement, memory, and plans for engines.

Traces become numbers, as in `moeviz.metrics`, and plans become files that engines read. What a step needs of a layer is
a set of experts, so nothing here changes when the slots of a token are permuted. No torch, no charts.
"""

from moeviz._lazy import lazy_package

__getattr__, __dir__, __all__ = lazy_package(__name__)
