"""The names of the package that are functions of its modules: type checkers read this, and so does `moeviz._lazy`."""

from moeviz.serving.answers import decide as decide
from moeviz.serving.batches import batch_coverage as batch_coverage
from moeviz.serving.cache import cache_tiers as cache_tiers, expert_cache as expert_cache, shared_cache as shared_cache
from moeviz.serving.placement import serving_placement as serving_placement
from moeviz.serving.prefetch import prefetch_recall as prefetch_recall
from moeviz.serving.staleness import plan_staleness as plan_staleness
