"""What does capture cost in MLX? Time of mlx-lm with moeviz listening / without, in one interleaved run.

    python -m benchmarks.mlx [--folder FOLDER] [--rounds N]

Without a folder the embedded model is written as one, in float32 and packed in 4 bits. Two models of the same weights
are opened: mlx-lm's as it is, and moeviz's. Both read the same tokens in the same steps, one after the other in random
order, many rounds; printed are the median of the ratio of each round, its middle half, and mlx-lm's own milliseconds a
token. "1 token" is one token after a prompt of 64. Needs the extra mlx.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm import utils
from mlx_lm.models.cache import make_prompt_cache

import moeviz
from benchmarks.harness import interleave, quartiles, ratios
from moeviz.capture.engines.mlx.model import STEP, MlxModel, _forward
from moeviz.embedded import embedded_path

LENGTHS = (1, 64, 512)
CONTEXT, WARM_UP = 64, 5


def embedded_folder(place: Path, bits: int | None) -> Path:
    """The embedded model as mlx-lm reads it: with its `rope_theta` where mlx-lm looks for it."""
    whole = place / "float32"
    if not whole.exists():
        shutil.copytree(
            embedded_path(), whole, ignore=lambda folder, names: [n for n in names if (Path(folder) / n).is_dir()]
        )
        config = json.loads((whole / "config.json").read_text())
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
        (whole / "config.json").write_text(json.dumps(config))
    if bits is None:
        return whole
    model, config = utils.load_model(whole)
    model, config = utils.quantize_model(model, config, 64, bits)
    packed = place / f"{bits} bit"
    utils.save_model(packed, model)
    utils.save_config(config, packed / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, packed)
    return packed


def plain(model: object, tokens: list[int], cache: list) -> np.ndarray:
    """Continue a text as mlx-lm does: all tokens but the last without an output."""
    for start in range(0, len(tokens) - 1, STEP):
        model(mx.array([tokens[start : min(start + STEP, len(tokens) - 1)]]), cache=cache)
        mx.eval([part.state for part in cache])
    scores = model(mx.array([tokens[-1:]]), cache=cache)[0, -1]
    mx.eval(scores, [part.state for part in cache])
    return np.array(scores.astype(mx.float32))


def captured(model: MlxModel, keep_logits: bool, tokens: list[int], cache: list) -> None:
    """Do the same and record the routing of every token, as `moeviz.trace` does."""
    opened = model.opened()
    for start in range(0, len(tokens) - 1, STEP):
        _forward(opened, tokens[start : min(start + STEP, len(tokens) - 1)], cache, keep_logits, False)
    _forward(opened, tokens[-1:], cache, keep_logits, True)


def seconds(way: Callable[[list[int], list], object], cache: list, tokens: list[int], length: int) -> float:
    """Time one run of `length` tokens; a single token follows a context."""
    if length == 1:
        way(tokens[:CONTEXT], cache)
    read = tokens[CONTEXT : CONTEXT + 1] if length == 1 else tokens[:length]
    start = time.perf_counter()
    way(read, cache)
    return time.perf_counter() - start


def compare(name: str, folder: Path, rounds: int) -> None:
    """Print a line for each length and way."""
    theirs, _ = utils.load_model(folder)
    theirs.set_dtype(mx.float32)  # a CPU multiplies experts that are not packed in float32 only
    mx.eval(theirs.parameters())
    ours = moeviz.load_model(str(folder), backend="mlx", dtype="float32")
    tokens = np.random.default_rng(0).integers(3, 8000, max(LENGTHS) + CONTEXT).tolist()
    ways = {
        "mlx-lm": partial(plain, theirs),
        "moeviz": partial(captured, ours, False),
        "moeviz + logits": partial(captured, ours, True),
    }
    for length in LENGTHS:

        def once(way: str, length: int = length) -> float:
            return seconds(ways[way], make_prompt_cache(theirs), tokens, length)

        times = interleave({way: partial(once, way) for way in ways}, rounds, WARM_UP)
        each = 1000 * statistics.median(times["mlx-lm"]) / length
        for way in list(ways)[1:]:
            middle, half = quartiles(ratios(times, way, "mlx-lm"))
            said = f"{name:<10}{length:>5} tokens  {way:<18}{middle:>7.3f}   {half}"
            print(f"{said}   {each:.2f} ms/token", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder of mlx-lm (default: the embedded model)")
    parser.add_argument("--rounds", type=int, default=60, help="rounds for each line (default 60)")
    wanted = parser.parse_args()
    if wanted.folder is not None:
        return compare(wanted.folder.name, wanted.folder, wanted.rounds)
    with tempfile.TemporaryDirectory() as place:
        for bits in (None, 4):
            folder = embedded_folder(Path(place), bits)
            compare(folder.name, folder, wanted.rounds)


if __name__ == "__main__":
    main()
