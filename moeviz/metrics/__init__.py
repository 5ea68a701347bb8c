"""Numbers about a RoutingTrace: each public function takes one and returns a tidy frame. No charts, no torch.

The functions behind the app's charts are names of the package too: `moeviz.metrics.balance(trace)`.
"""

from moeviz._lazy import lazy_package

__getattr__, __dir__, __all__ = lazy_package(__name__)
