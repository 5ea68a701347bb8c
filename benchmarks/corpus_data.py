"""Made-up routing for `benchmarks.corpus`: a dataset of any size.

The recipe: an expert's popularity follows Zipf's law (exponent 0.7, another order in each layer); a token takes the
top_k experts of popularity and Gumbel noise together, so the chances are those of sampling without replacement; one
token in five keeps the experts of the token before. Weights are the softmax over the chosen. Texts have 512 tokens,
labels come in turn, and token ids follow Zipf's law (1.3, at most 31,999).
"""

import time
from pathlib import Path

import numpy as np

from moeviz import ModelInfo, RoutingTrace
from moeviz.formats.dataset.folder import new_plan, writing
from moeviz.formats.dataset.layout import Kept, Weights
from moeviz.routing_trace import token_frame

RECIPES = {"E = 64, top-6": (64, 6), "E = 128, top-8": (128, 8)}
GROUP, GROUPS = 65_536, 2  # tokens of a row group, and how many different ones are drawn
SHARD = 16  # row groups of a shard: about a million tokens
TEXT, LABELS = 512, 8  # tokens of a text, and how many labels there are


def made_up(tokens: int, layers: int, experts: int, top_k: int, seed: int) -> RoutingTrace:
    """Return a trace of this many tokens by the recipe above."""
    rng = np.random.default_rng(seed)
    ids, weights = np.empty((layers, tokens, top_k), np.int16), np.empty((layers, tokens, top_k), np.float32)
    keeps = rng.random((layers, tokens)) < 0.2
    keeps[:, 0] = False
    for layer in range(layers):
        popular = np.random.default_rng(layer).permutation(-0.7 * np.log(np.arange(1, experts + 1))).astype(np.float32)
        drawn = rng.standard_exponential((tokens, experts), np.float32)  # minus its logarithm is Gumbel noise
        score = popular - np.log(np.maximum(drawn, 1e-30))
        best = np.argpartition(-score, top_k, axis=1)[:, :top_k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(score, best, 1), axis=1), 1)
        logits = np.take_along_axis(score, best, 1)
        shares = np.exp(logits - logits[:, :1])
        source = np.maximum.accumulate(np.where(keeps[layer], 0, np.arange(tokens)))
        ids[layer], weights[layer] = best[source], (shares / shares.sum(axis=1, keepdims=True))[source]
    model = ModelInfo("made up", "test", tuple(range(layers)), (experts,) * layers, top_k)
    words, places = rng.zipf(1.3, tokens).clip(max=31_999), np.arange(tokens)
    texts = [f"w{word}" for word in words.tolist()]
    return RoutingTrace(model, token_frame(places // TEXT, places % TEXT, texts, words), ids, weights)


def write_made_up(
    folder: Path, tokens: int, layers: int, experts: int, top_k: int, weights: Weights = "float16", group: int = GROUP
) -> float:
    """Write a dataset of this many tokens, one row group at a time; return the CPU seconds that it took."""
    groups = [made_up(min(group, tokens), layers, experts, top_k, seed) for seed in range(GROUPS)]
    each = len(groups[0].tokens)
    count = max(tokens // each, 1)
    sizes = [min(SHARD, count - start) for start in range(0, count, SHARD)]
    texts = -(-each // TEXT)
    shards = [{"texts": size * texts, "tokens": size * each} for size in sizes]
    begun = time.process_time()
    with writing(folder, new_plan(groups[0].model, Kept(weights), shards)) as dataset:
        for number, size in enumerate(sizes):
            with dataset.writer(number, rows=each) as writer:
                for at in range(size):
                    trace = groups[at % GROUPS]
                    text = (number * SHARD + at) * texts + trace.tokens["sequence"].to_numpy("int64")
                    writer.add_rows(text, [f"label {n % LABELS}" for n in text.tolist()], trace)
                writer.commit(dataset.digest)
        dataset.finish()
    return time.process_time() - begun
