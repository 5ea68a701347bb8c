"""ESFT's `expert_weights_N.txt`: a file a layer, a line a text: its expert ids, two tabs, their weights to 4 decimals.

T x K of each in a line, separated by tabs; K is not in the file. N is the layer's own index. Slots are sorted by weight
here, since in the files they are in no order.
"""

import re

import numpy as np

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.build_trace import SequenceRouting, SourceInfo, build_trace
from moeviz.formats.importers.importer import Importer, ImportOptions, Source, flag
from moeviz.routing_trace import RoutingTrace

FILES = r"expert_weights_\d+\.txt"


def recognise(source: Source) -> bool:
    """A folder with expert_weights_1.txt."""
    return source.is_folder and bool(source.matching(FILES))


def read(source: Source, options: ImportOptions) -> RoutingTrace:
    """Read the trace of every text, one sequence each."""
    top_k, ids, weights = options.need("top_k", "A folder of ESFT"), [], []
    lengths: list[int] = []
    for name in source.matching(FILES):
        texts = [_text(line, name, top_k) for line in source.files[name].decode().splitlines()]
        if lengths and lengths != [len(own) for own, _ in texts]:
            raise InvalidTrace(f"{name} does not have the texts of the layers before it. Write all layers in one run.")
        lengths = [len(own) for own, _ in texts]
        ids.append(np.concatenate([own for own, _ in texts]))
        weights.append(np.concatenate([own for _, own in texts]))
    parts = []
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        rows = slice(end - length, end)
        parts.append(SequenceRouting(np.stack(ids)[:, rows], weights=np.stack(weights)[:, rows]))
    layers = [int(re.findall(r"\d+", name)[0]) for name in source.matching(FILES)]
    return build_trace(parts, SourceInfo("esft", layers), source.name, options)


def _text(line: str, name: str, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    left, _, right = line.partition("\t\t")
    ids, weights = np.array(left.split("\t"), np.int64), np.array(right.split("\t"), np.float64)
    if len(ids) != len(weights) or len(ids) % top_k:
        raise InvalidTrace(
            f"A line of {name} has {len(ids):,} ids and {len(weights):,} weights, which are not {top_k} for each "
            f"token. Is {flag('top_k')} right?"
        )
    if not np.isfinite(weights).all():
        raise InvalidTrace(f"A weight in {name} is not a finite number. Write the file again.")
    return ids.reshape(-1, top_k), weights.reshape(-1, top_k)


FORMAT = Importer("esft", "ESFT's expert weights", "trace", recognise, read, asks=("top_k",), may_ask=("experts",))
