"""Make what ships for the app's page of an expert: `python -m models.training.reference`.

The finished model reads the texts of `texts_over_training`: once as it is, for ids and weights; and once without each
of its 48 experts, for what that costs each kind of text. About 20 minutes on one core. A sibling that is named reads
them instead, as it is: half a minute; the bias on the choice of the one with many small experts is written too.
"""

import argparse
import logging
import sys

import pandas as pd

import moeviz
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.muting import muted_by_label
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import FINE
from moeviz.embedded.recorded_routing import BIAS, DIGITS, MUTED, ROUTING, texts_over_training
from moeviz.formats.trace_file import to_trace_file

log = logging.getLogger("moeviz.training")


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m models.training.reference", description=__doc__)
    parser.add_argument("model", nargs="?", default=EMBEDDED, choices=ROUTING, help="embedded, if none is named")
    name, texts = parser.parse_args().model, texts_over_training()
    model, file = moeviz.load_model(name), ROUTING[name]
    file.write_bytes(to_trace_file(trace_corpus(model, texts)))
    log.info("%s: %d bytes", file.name, file.stat().st_size)
    if name == FINE:
        bias_of(model).round(DIGITS).to_csv(BIAS, index=False, lineterminator="\n")
    if name != EMBEDDED:
        return
    told = muted_by_label(model, texts, progress=lambda done, total: log.info("%d of %d texts", done, total))
    told.round(DIGITS).to_csv(MUTED, index=False, lineterminator="\n")


def bias_of(model: LoadedModel) -> pd.DataFrame:
    """What each router adds to the scores before it chooses; columns of `fine_bias`."""
    found = [bias.tolist() for name, bias in model.model.named_buffers() if name.endswith("e_score_correction_bias")]
    rows = [(layer, expert, bias) for layer, of in enumerate(found) for expert, bias in enumerate(of)]
    return pd.DataFrame(rows, columns=["layer", "expert", "bias"])


if __name__ == "__main__":
    main()
