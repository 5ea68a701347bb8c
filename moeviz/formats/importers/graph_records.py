"""Records in the order in which llama.cpp's graph runs: a layer that comes again begins a pass.

The last layer routes only the last token of a prompt, since the graph drops rows that have no output. The others
are not recorded there.
"""

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.build_trace import CELLS_A_ROW, SMALL, SequenceRouting
from moeviz.formats.importers.importer import Source
from moeviz.routing_trace import NO_EXPERT

LAST_LAYER = "The last layer routes only the last token of a prompt: the others are not recorded there."
BY_SCORE = "Slots are in the order of the router's biased scores, which need not be the order of weights."


def graph_routing(records: list[tuple[int, np.ndarray]], source: Source) -> tuple[list[int], SequenceRouting]:
    """Layers, and the routing of all passes that have every layer; records are (layer, ids (tokens, K)).

    Passes without a layer are left out, and noted.
    """
    passes: list[dict[int, np.ndarray]] = []
    before = -1
    for layer, rows in records:
        if layer <= before or not passes:
            passes.append({})
        passes[-1][layer], before = rows, layer
    layers = sorted({layer for one in passes for layer in one})
    every, passes = passes, [one for one in passes if len(one) == len(layers)]
    if not passes or len({rows.shape[1] for _, rows in records}) != 1:
        raise InvalidTrace("The file has no complete pass through all layers, or more than one top-k. Record again.")
    if cut := [one for one in every if len(one) < len(layers)]:
        lost, tokens = (sum(max(map(len, one.values())) for one in some) for some in (cut, every))
        source.leave_out(
            f"Left out: {len(cut):,} of {len(every):,} passes, {lost:,} of {tokens:,} tokens, which lack some of the "
            f"{len(layers)} layers, as where a run is killed."
        )
    lengths = [max(len(rows) for rows in one.values()) for one in passes]
    shape = (len(layers), sum(lengths), records[0][1].shape[1])
    given = sum(rows.size for _, rows in records)
    if np.prod(shape, dtype=float) > max(SMALL, CELLS_A_ROW * given):
        raise InvalidTrace("The layers of the file have too different numbers of tokens. It was damaged.")
    ids = np.full(shape, NO_EXPERT, np.int64)
    for one, end in zip(passes, np.cumsum(lengths), strict=True):
        for row, layer in enumerate(layers):
            ids[row, end - len(one[layer]) : end] = one[layer]
    return layers, SequenceRouting(ids)
