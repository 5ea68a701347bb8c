"""moeviz: see which experts of a Mixture-of-Experts language model fire, token by token and layer by layer.

    >>> import moeviz
    >>> trace = moeviz.trace(moeviz.load_model(), "Il fait froid.")
    >>> trace.experts.shape[0], trace.experts.shape[2]  # layers, slots
    (6, 2)

Everything that most programs need is a name here, imported on first use. `import moeviz` loads neither torch nor
Streamlit nor pandas. It sets OMP_WAIT_POLICY=PASSIVE, unless the variable is set or torch is loaded already: torch's
threads then sleep while they wait, which on a busy machine makes short forwards many times faster.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import moeviz.interrupted as _interrupted  # noqa: F401  # from here on, Ctrl-C ends the command in one line
from moeviz._viewers import VIEWERS
from moeviz.errors import CaptureError, InvalidPrompt, InvalidTrace, MissingField, ModelNotFound, MoevizError

if TYPE_CHECKING:
    from moeviz.analyses.direct_attribution import direct_attribution
    from moeviz.analyses.lineage import Lineage, lineage
    from moeviz.analyses.occlusion import Occlusion, occlude
    from moeviz.analyses.pruning.curve import pruning_curve
    from moeviz.analyses.routes import route_regret
    from moeviz.analyses.what_if import WhatIf, ablate, what_if
    from moeviz.capture.corpus import trace_corpus
    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.interventions.at_token import AtToken
    from moeviz.capture.interventions.bias import Bias
    from moeviz.capture.interventions.force import Force
    from moeviz.capture.interventions.mute import Mute
    from moeviz.capture.interventions.precision import Precision
    from moeviz.capture.interventions.replay import Replay
    from moeviz.capture.interventions.swap import Swap
    from moeviz.capture.interventions.top_k import TopK
    from moeviz.capture.models.load import LoadedModel
    from moeviz.capture.opening import load_model
    from moeviz.capture.run.decoding import Decoding, Sampling
    from moeviz.capture.trace import stream, trace
    from moeviz.checks import check, compare, diff, precision
    from moeviz.corpus.run import write_corpus
    from moeviz.expert_counts import ExpertCounts
    from moeviz.formats.counts_file import write_counts
    from moeviz.formats.dataset.convert import write_dataset
    from moeviz.formats.dataset.opening import read_dataset
    from moeviz.formats.dataset.reader import Dataset
    from moeviz.formats.exports import read_counts, read_trace, write_trace
    from moeviz.formats.importers.importer import ImportOptions
    from moeviz.launch import RunningApp, open_in_app
    from moeviz.model_info import ModelInfo, ParameterCounts
    from moeviz.published import published_counts
    from moeviz.quick_view import view
    from moeviz.routing_trace import RoutingTrace

__version__ = "0.1.0"

if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What is imported on first use, by the module that has it.
_ON_FIRST_USE = {
    "moeviz.capture.trace": ("trace", "stream"),
    "moeviz.capture.corpus": ("trace_corpus",),
    "moeviz.analyses.direct_attribution": ("direct_attribution",),
    "moeviz.capture.engines.engine": ("EngineModel",),
    "moeviz.analyses.lineage": ("Lineage", "lineage"),
    "moeviz.capture.models.load": ("LoadedModel",),
    "moeviz.analyses.occlusion": ("Occlusion", "occlude"),
    "moeviz.capture.opening": ("load_model",),
    "moeviz.capture.run.decoding": ("Decoding", "Sampling"),
    "moeviz.capture.interventions.at_token": ("AtToken",),
    "moeviz.capture.interventions.bias": ("Bias",),
    "moeviz.capture.interventions.force": ("Force",),
    "moeviz.capture.interventions.mute": ("Mute",),
    "moeviz.capture.interventions.precision": ("Precision",),
    "moeviz.capture.interventions.replay": ("Replay",),
    "moeviz.capture.interventions.swap": ("Swap",),
    "moeviz.capture.interventions.top_k": ("TopK",),
    "moeviz.analyses.routes": ("route_regret",),
    "moeviz.analyses.what_if": ("WhatIf", "ablate", "what_if"),
    "moeviz.checks": ("check", "compare", "diff", "precision"),
    "moeviz.corpus.run": ("write_corpus",),
    "moeviz.expert_counts": ("ExpertCounts",),
    "moeviz.formats.counts_file": ("write_counts",),
    "moeviz.formats.dataset.convert": ("write_dataset",),
    "moeviz.formats.dataset.opening": ("read_dataset",),
    "moeviz.formats.dataset.reader": ("Dataset",),
    "moeviz.formats.exports": ("read_counts", "read_trace", "write_trace"),
    "moeviz.formats.importers.importer": ("ImportOptions",),
    "moeviz.launch": ("RunningApp", "open_in_app"),
    "moeviz.model_info": ("ModelInfo", "ParameterCounts"),
    "moeviz.analyses.pruning.curve": ("pruning_curve",),
    "moeviz.quick_view": ("view",),
    "moeviz.published": ("published_counts",),
    "moeviz.routing_trace": ("RoutingTrace",),
}
_MODULES = (
    "adapters",
    "analyses",
    "capture",
    "charts",
    "corpus",
    "embedded",
    "errors",
    "examples",
    "expert_counts",
    "formats",
    "history",
    "labelled_texts",
    "metrics",
    "model_info",
    "next_tokens",
    "parameters",
    "published",
    "report",
    "routing_trace",
    "serving",
    "testing",
    "training",
)
_HOMES = {name: module for module, names in _ON_FIRST_USE.items() for name in names}

__all__ = [
    "AtToken",
    "Bias",
    "CaptureError",
    "Dataset",
    "Decoding",
    "EngineModel",
    "ExpertCounts",
    "Force",
    "ImportOptions",
    "InvalidPrompt",
    "InvalidTrace",
    "Lineage",
    "LoadedModel",
    "MissingField",
    "ModelInfo",
    "ModelNotFound",
    "MoevizError",
    "Mute",
    "Occlusion",
    "ParameterCounts",
    "Precision",
    "Replay",
    "RoutingTrace",
    "RunningApp",
    "Sampling",
    "Swap",
    "TopK",
    "WhatIf",
    "__version__",
    "ablate",
    "check",
    "compare",
    "diff",
    "direct_attribution",
    "lineage",
    "load_model",
    "occlude",
    "open_in_app",
    "precision",
    "pruning_curve",
    "published_counts",
    "read_counts",
    "read_dataset",
    "read_trace",
    "route_regret",
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
        if name in _MODULES:
            return import_module("moeviz." + name)
        if name not in _HOMES:
            from moeviz.text import like

            meant = "" if name.startswith("_") else like(name, __dir__())
            raise AttributeError(f"module 'moeviz' has no attribute {name!r}.{meant}")
        from moeviz._plain_help import with_plain_help

        return with_plain_help(getattr(import_module(_HOMES[name]), name))


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})


VIEWERS["plot"] = lambda trace: import_module("moeviz.report.plots").Plots(trace)
VIEWERS["html"] = lambda trace: import_module("moeviz.report.notebook").trace_html(trace)
