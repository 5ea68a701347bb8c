"""moeviz: see which experts of a Mixture-of-Experts language model fire, token by token and layer by layer.

    >>> import moeviz
    >>> trace = moeviz.trace(moeviz.load_model(), "Il fait froid.")
    >>> trace.experts.shape[0], trace.experts.shape[2]  # layers, slots
    (6, 2)

`import moeviz` loads neither torch nor streamlit: what needs them is imported on first use.
"""

from importlib import import_module
from typing import Any

from moeviz.model_info import ModelInfo, ParameterCounts
from moeviz.routing_trace import VIEWERS, RoutingTrace

__version__ = "0.1.0"

_ON_FIRST_USE = {
    "load_model": ("moeviz.capture.models.load", "load_model"),
    "trace": ("moeviz.capture.trace", "trace"),
    "stream": ("moeviz.capture.stream", "stream"),
    "what_if": ("moeviz.capture.change.what_if", "what_if"),
    "ablate": ("moeviz.capture.change.what_if", "ablate"),
    "read_trace": ("moeviz.formats.exports", "read_trace"),
    "write_trace": ("moeviz.formats.exports", "write_trace"),
    "view": ("moeviz.one_call", "view"),
}
__all__ = ["ModelInfo", "ParameterCounts", "RoutingTrace", "__version__", *_ON_FIRST_USE]


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'moeviz' has no attribute {name!r}")
    module, attribute = _ON_FIRST_USE[name]
    return getattr(import_module(module), attribute)


VIEWERS["plot"] = lambda trace: import_module("moeviz.report.plots").Plots(trace)
VIEWERS["html"] = lambda trace: import_module("moeviz.report.notebook").trace_html(trace)
