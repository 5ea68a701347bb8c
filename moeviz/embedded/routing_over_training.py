"""How the embedded model's routing settled: a trace of the same texts at each of several points of its training.

Recorded while it trained, so that the question can be asked again without training again.
"""

from pathlib import Path

from moeviz.embedded.evaluation import evaluation_set
from moeviz.formats.trace_file import from_trace_file
from moeviz.routing_trace import RoutingTrace

FOLDER = Path(__file__).parent / "routing_over_training"
CHARACTERS = 400  # of each text of the evaluation set: enough to see routing, and small to ship


def texts_over_training() -> list[tuple[str, str]]:
    """(label, text) of what every recorded trace is of."""
    return [(text.label, text.text[:CHARACTERS]) for text in evaluation_set()]


def traces_over_training() -> dict[int, RoutingTrace]:
    """The recorded traces by how many tokens the model had been trained on, the finished model last. Ids only."""
    files = sorted(FOLDER.glob("tokens-*.npz"))
    return {int(file.stem.removeprefix("tokens-")): from_trace_file(file.read_bytes()) for file in files}
