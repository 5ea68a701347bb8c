"""Record the example that ships: `python -m models.training.example ["another text"]`."""

import logging
import sys

import moeviz
from moeviz.embedded.recorded_routing import EXAMPLE, example_trace
from moeviz.formats.trace_file import to_trace_file
from moeviz.metrics.tokens import written_text

log = logging.getLogger("moeviz.training")


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    text = sys.argv[1] if len(sys.argv) > 1 else written_text(example_trace())
    EXAMPLE.write_bytes(to_trace_file(moeviz.trace(moeviz.load_model(), text, next_tokens=True)))
    log.info("%s: %d bytes", EXAMPLE.name, EXAMPLE.stat().st_size)


if __name__ == "__main__":
    main()
