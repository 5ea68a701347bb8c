"""Make what ships for the app's page of an expert: `python -m moeviz.embedded.training.reference`.

The finished model reads the texts of `texts_over_training`: once as it is, for ids and weights; and once without each
of its 48 experts, for what that costs each kind of text. About 20 minutes on one core. With `--natural` its sibling
reads them instead, as it is: half a minute.
"""

import argparse
import logging
import sys

import moeviz
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.muting import muted_by_label
from moeviz.embedded.own_models import NATURAL
from moeviz.embedded.reference import DIGITS, MUTED, NATURAL_ROUTING, ROUTING
from moeviz.embedded.routing_over_training import texts_over_training
from moeviz.formats.trace_file import to_trace_file

log = logging.getLogger("moeviz.training")


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m moeviz.embedded.training.reference", description=__doc__)
    parser.add_argument("--natural", action="store_true", help=f"of {NATURAL}")
    texts = texts_over_training()
    if parser.parse_args().natural:
        NATURAL_ROUTING.write_bytes(to_trace_file(trace_corpus(moeviz.load_model(NATURAL), texts)))
        return
    model = moeviz.load_model()
    ROUTING.write_bytes(to_trace_file(trace_corpus(model, texts)))
    log.info("%s: %d bytes", ROUTING.name, ROUTING.stat().st_size)
    told = muted_by_label(model, texts, progress=lambda done, total: log.info("%d of %d texts", done, total))
    told.round(DIGITS).to_csv(MUTED, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
