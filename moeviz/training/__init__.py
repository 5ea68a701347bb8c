"""Routing while a model trains: figures of its routers, and a sentence when something goes wrong.

    from moeviz.training import watch

    watch(trainer, out="run/routing")                    # transformers' Trainer, and those of TRL

    health = RoutingHealth(model, out="run/routing")     # any other loop
    loss.backward(); optimizer.step(); health.step()
    health.report(loss)                                  # when a log is due, on every rank

    run = read_run("run/routing")                        # what was written, while it grows or afterwards

Names are imported on first use.
"""

from moeviz._lazy import lazy_package

__getattr__, __dir__, __all__ = lazy_package(__name__)
