"""Costs of serving a routing: expert caches, batches, prefetching, placement, memory, and plans for engines.

Traces become numbers, as in `moeviz.metrics`, and plans become files that engines read. What a step needs of a layer is
a set of experts, so nothing here changes when the slots of a token are permuted. No torch, no charts.
"""

from typing import TYPE_CHECKING

from moeviz._lazy import lazy_package

FUNCTIONS = {
    "answers": ("decide",),
    "batches": ("batch_coverage",),
    "cache": ("cache_tiers", "expert_cache", "shared_cache"),
    "placement": ("serving_placement",),
    "prefetch": ("prefetch_recall",),
    "staleness": ("plan_staleness",),
}

if not TYPE_CHECKING:  # a type checker wants the import of the module
    __getattr__, __dir__, __all__ = lazy_package(__name__, FUNCTIONS)
