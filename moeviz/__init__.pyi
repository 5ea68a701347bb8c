"""The names of the package, each with the module that has it: type checkers read this, and so does `moeviz._lazy`."""

from moeviz import (
    adapters as adapters,
    analyses as analyses,
    capture as capture,
    charts as charts,
    corpus as corpus,
    embedded as embedded,
    errors as errors,
    examples as examples,
    expert_counts as expert_counts,
    formats as formats,
    history as history,
    labelled_texts as labelled_texts,
    metrics as metrics,
    model_info as model_info,
    next_tokens as next_tokens,
    parameters as parameters,
    published as published,
    report as report,
    routing_trace as routing_trace,
    serving as serving,
    testing as testing,
    training as training,
)
from moeviz.analyses.direct_attribution import direct_attribution as direct_attribution
from moeviz.analyses.lineage import Lineage as Lineage, lineage as lineage
from moeviz.analyses.occlusion import Occlusion as Occlusion, occlude as occlude
from moeviz.analyses.pruning.curve import pruning_curve as pruning_curve
from moeviz.analyses.routes import route_regret as route_regret
from moeviz.analyses.what_if import WhatIf as WhatIf, ablate as ablate, what_if as what_if
from moeviz.capture.corpus import trace_corpus as trace_corpus
from moeviz.capture.engines.engine import EngineModel as EngineModel
from moeviz.capture.interventions.at_token import AtToken as AtToken
from moeviz.capture.interventions.bias import Bias as Bias
from moeviz.capture.interventions.force import Force as Force
from moeviz.capture.interventions.mute import Mute as Mute
from moeviz.capture.interventions.precision import Precision as Precision
from moeviz.capture.interventions.replay import Replay as Replay
from moeviz.capture.interventions.swap import Swap as Swap
from moeviz.capture.interventions.top_k import TopK as TopK
from moeviz.capture.models.load import LoadedModel as LoadedModel
from moeviz.capture.opening import load_model as load_model
from moeviz.capture.run.decoding import Decoding as Decoding, Sampling as Sampling
from moeviz.capture.trace import stream as stream, trace as trace
from moeviz.checks import check as check, compare as compare, diff as diff, precision as precision
from moeviz.corpus.run import write_corpus as write_corpus
from moeviz.errors import (
    CaptureError as CaptureError,
    InvalidPrompt as InvalidPrompt,
    InvalidTrace as InvalidTrace,
    MissingField as MissingField,
    ModelNotFound as ModelNotFound,
    MoevizError as MoevizError,
)
from moeviz.expert_counts import ExpertCounts as ExpertCounts
from moeviz.formats.counts_file import write_counts as write_counts
from moeviz.formats.dataset.convert import write_dataset as write_dataset
from moeviz.formats.dataset.opening import read_dataset as read_dataset
from moeviz.formats.dataset.reader import Dataset as Dataset
from moeviz.formats.exports import read_counts as read_counts, read_trace as read_trace, write_trace as write_trace
from moeviz.formats.importers.importer import ImportOptions as ImportOptions
from moeviz.launch import RunningApp as RunningApp, open_in_app as open_in_app
from moeviz.model_info import ModelInfo as ModelInfo, ParameterCounts as ParameterCounts
from moeviz.published import published_counts as published_counts
from moeviz.quick_view import view as view
from moeviz.routing_trace import RoutingTrace as RoutingTrace

__version__: str
