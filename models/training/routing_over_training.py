"""Record how routing formed: `python -m models.training.routing_over_training RUN TOKENIZER`.

Every snapshot in the training run's folder reads the same texts; the routing of each becomes a trace that ships.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from models.training.export import read_trained, to_transformers
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.parameters import describe
from moeviz.embedded import EMBEDDED
from moeviz.embedded.recorded_routing import OVER_TRAINING, texts_over_training
from moeviz.formats.trace_file import to_trace_file
from moeviz.routing_trace import RoutingTrace

log = logging.getLogger("moeviz.training")


def trace_of_snapshot(file: Path, tokenizer: PreTrainedTokenizerBase) -> RoutingTrace:
    """The routing of these texts by the weights in one snapshot: labels and ids, no weights or logits."""
    model = to_transformers(*read_trained(file))
    tokens = int(file.stem.removeprefix("snapshot-"))
    info = describe(model, EMBEDDED, f"{tokens:,} training tokens")
    return replace(trace_corpus(LoadedModel(model, tokenizer, info), texts_over_training()), weights=None)


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m models.training.routing_over_training", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder that a training run wrote")
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER", help="the tokenizer's folder")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    OVER_TRAINING.mkdir(exist_ok=True)
    for file in sorted(arguments.run.glob("snapshot-*.pt")):
        target = OVER_TRAINING / f"{file.stem.replace('snapshot', 'tokens')}.npz"
        target.write_bytes(to_trace_file(trace_of_snapshot(file, tokenizer)))
        log.info("%s: %d bytes", target.name, target.stat().st_size)


if __name__ == "__main__":
    main()
