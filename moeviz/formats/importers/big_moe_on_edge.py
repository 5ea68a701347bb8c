"""BigMoeOnEdge's --route-trace: CSV behind comment lines, a row for each chosen expert, with weights of 6 digits.

Columns are read by name. Weights may be `nan` in all rows; then their order is not known. Experts with `dropped=1` were
chosen and not run; they count as chosen. A prompt's tokens but the last are not recorded at the last layer.
"""

import re

import numpy as np

from moeviz.formats.importers.arrays import integer_columns, read_csv
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace, fill_slots
from moeviz.formats.importers.importer import Importer, ImportOptions, Source
from moeviz.routing_trace import RoutingTrace

LAST_LAYER = "Rows that the last layer of a prompt does not need were never routed there, and are not recorded."


def recognise(source: Source) -> bool:
    """A first line # route_trace v1."""
    return source.data.startswith(b"# route_trace v1")


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every turn, one sequence each."""
    lines = source.data.split(b"\n")
    facts = dict(re.findall(r"(\w+)=(\S+)", lines[1].decode(errors="replace")))
    table = read_csv(b"\n".join(line for line in lines if not line.startswith(b"#")), source)
    turn, step, layer, slot = integer_columns(table, "turn", "step", "layer", "slot")
    expert, phase = integer_columns(table, "expert", "phase")
    tokens, token = np.unique(np.stack([turn, step], axis=1), axis=0, return_inverse=True)
    token = token.reshape(-1)
    weights = table["weight"].astype(np.float64).to_numpy()
    late = np.zeros(len(tokens), bool)
    late[token[phase == 1]] = True
    layers, ids, (weight,) = fill_slots(layer, token, slot, expert, np.nan_to_num(weights))
    _, sequence = np.unique(tokens[:, 0], return_inverse=True)
    part = SequenceRouting(
        ids, tokens[:, 1], generated=late, sequence=sequence, weights=None if np.isnan(weights).any() else weight
    )
    about = SourceInfo("llama.cpp (BigMoeOnEdge)", layers, experts=int(facts["n_expert"]), cautions=(LAST_LAYER,))
    return build_trace([part], about, source.name, options)


FORMAT = Importer("big-moe-on-edge", "BigMoeOnEdge traces", "trace", recognise, read)
