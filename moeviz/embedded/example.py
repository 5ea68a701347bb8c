"""How the embedded model routes the app's first example: recorded once, so that a page shows it without the model.

`python -m models.training.example` makes the file anew.
"""

from pathlib import Path

from moeviz.formats.trace_file import from_trace_file
from moeviz.routing_trace import RoutingTrace

EXAMPLE = Path(__file__).parent / "example.npz"


def example_trace() -> RoutingTrace:
    """The trace: ids, weights, logits and next tokens of one short text in several languages."""
    return from_trace_file(EXAMPLE.read_bytes())
