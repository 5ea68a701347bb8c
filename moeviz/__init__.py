"""moeviz: see which experts of a Mixture-of-Experts language model fire, token by token and layer by layer.

    >>> import moeviz
    >>> trace = moeviz.trace(moeviz.load_model(), "Il fait froid.")
    >>> trace.experts.shape[0], trace.experts.shape[2]  # layers, slots
    (6, 2)

The front door: everything that a user needs is a name here. `import moeviz` loads neither torch nor streamlit: what
needs them is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from moeviz.errors import CaptureError, InvalidPrompt, InvalidTrace, MissingField, ModelNotFound, MoevizError
from moeviz.expert_counts import ExpertCounts
from moeviz.model_info import ModelInfo, ParameterCounts
from moeviz.moved import keep_old_names
from moeviz.routing_trace import RoutingTrace
from moeviz.viewers import VIEWERS

if TYPE_CHECKING:
    from moeviz.capture.change.kinds import Exchange, Force, Mute, Replay, TopK
    from moeviz.capture.change.precision import Precision
    from moeviz.capture.change.what_if import WhatIf, ablate, what_if
    from moeviz.capture.corpus import trace_corpus
    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.models.load import LoadedModel
    from moeviz.capture.opening import load_model
    from moeviz.capture.run.decoding import Decoding, Sampling
    from moeviz.capture.trace import stream, trace
    from moeviz.corpus.run import write_corpus
    from moeviz.formats.counts_file import write_counts
    from moeviz.formats.dataset.convert import write_dataset
    from moeviz.formats.dataset.opening import read_dataset
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.formats.exports import read_counts, read_trace, write_trace
    from moeviz.formats.importers.options import ImportOptions
    from moeviz.in_app import RunningApp, open_in_app
    from moeviz.one_call import view
    from moeviz.published import published_counts

__version__ = "0.1.0"

# What is imported on first use, by the module that has it.
_ON_FIRST_USE = {
    "moeviz.capture.trace": ("trace", "stream"),
    "moeviz.capture.corpus": ("trace_corpus",),
    "moeviz.capture.engines.engine": ("EngineModel",),
    "moeviz.capture.models.load": ("LoadedModel",),
    "moeviz.capture.opening": ("load_model",),
    "moeviz.capture.run.decoding": ("Decoding", "Sampling"),
    "moeviz.capture.change.kinds": ("Exchange", "Force", "Mute", "Replay", "TopK"),
    "moeviz.capture.change.precision": ("Precision",),
    "moeviz.capture.change.what_if": ("WhatIf", "ablate", "what_if"),
    "moeviz.corpus.run": ("write_corpus",),
    "moeviz.formats.counts_file": ("write_counts",),
    "moeviz.formats.dataset.convert": ("write_dataset",),
    "moeviz.formats.dataset.opening": ("read_dataset",),
    "moeviz.formats.dataset.reader": ("Dataset",),
    "moeviz.formats.exports": ("read_counts", "read_trace", "write_trace"),
    "moeviz.formats.importers.options": ("ImportOptions",),
    "moeviz.in_app": ("RunningApp", "open_in_app"),
    "moeviz.one_call": ("view",),
    "moeviz.published": ("published_counts",),
}
_HOMES = {name: module for module, names in _ON_FIRST_USE.items() for name in names}

__all__ = [
    "CaptureError",
    "Dataset",
    "Decoding",
    "EngineModel",
    "Exchange",
    "ExpertCounts",
    "Force",
    "ImportOptions",
    "InvalidPrompt",
    "InvalidTrace",
    "LoadedModel",
    "MissingField",
    "ModelInfo",
    "ModelNotFound",
    "MoevizError",
    "Mute",
    "ParameterCounts",
    "Precision",
    "Replay",
    "RoutingTrace",
    "RunningApp",
    "Sampling",
    "TopK",
    "WhatIf",
    "__version__",
    "ablate",
    "load_model",
    "open_in_app",
    "published_counts",
    "read_counts",
    "read_dataset",
    "read_trace",
    "stream",
    "trace",
    "trace_corpus",
    "view",
    "what_if",
    "write_corpus",
    "write_counts",
    "write_dataset",
    "write_trace",
]


if not TYPE_CHECKING:  # a type checker knows the names above, and that there are no others

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'moeviz' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


keep_old_names()
VIEWERS["plot"] = lambda trace: import_module("moeviz.report.plots").Plots(trace)
VIEWERS["html"] = lambda trace: import_module("moeviz.report.notebook").trace_html(trace)
