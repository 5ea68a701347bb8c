"""The kind of a text, told by its routing alone: which texts are routed most like texts of another kind."""

from collections.abc import Sequence

from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.trace import trace
from moeviz.embedded import EMBEDDED
from moeviz.embedded.evaluation import EvaluationText
from moeviz.embedded.routing_over_training import texts_over_training, traces_over_training
from moeviz.metrics.label_similarity import label_similarity
from moeviz.routing_trace import RoutingTrace

STRETCH = slice(500, 620)  # characters of a text that tell its kind; the recorded beginnings are of the first 400


def mistaken(model: LoadedModel, texts: Sequence[EvaluationText]) -> list[str]:
    """List texts whose middle is routed less like beginnings of their kind than like another's: "C for Python"."""
    known, wrong = _beginnings(model), []
    for text in texts:
        likeness = label_similarity(trace(model, text.text[STRETCH], keep_logits=False), known)
        if (nearest := likeness["label"][0]) != text.label:
            wrong.append(f"{text.label} for {nearest}")
    return wrong


def _beginnings(model: LoadedModel) -> RoutingTrace:
    """How the model routes the beginnings of all texts: recorded beforehand of the one that ships."""
    if model.name == EMBEDDED:
        recorded = traces_over_training()
        return recorded[max(recorded)]
    return trace_corpus(model, texts_over_training())
