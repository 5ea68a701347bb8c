"""What the figures of `moeviz.serving` take to compute, beside the LRU of moe-policylang, in one interleaved run.

    python -m benchmarks.serving [--rounds N] [--tokens T] [--peer PYTHON]
    python -m benchmarks.serving --page                the page Serve instead: 256 tokens x 48 layers

PEER is the Python of an environment with moe-policylang, lark and torch (`pip install moe-policylang`); moeviz itself
does not need it, and without it its line is left out. Printed is the CPU time of one core per million tokens x layers
on a made-up trace (E = 64, k = 6), the median over rounds, and each as a multiple of our LRU at all capacities. Of the
page, it is the CPU time of one run of its script, in Streamlit's own test harness: without a browser, and without
results kept from an earlier run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise

EXPERTS, TOP_K, LAYERS, CAPACITY = 64, 6, 4, 16
CAPACITIES = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48)
TARGETS = {
    "Belady, 12 capacities": 5,
    "bound, 12 capacities": 5,
    "coverage": 0.1,
    "recall, layer before": 1,
    "recall, all": 1,
}
PEER = """
import sys, time
import numpy as np
from moe_policylang.benchmark.replay import policy_topk_lru
scores = np.load(sys.argv[1])
for line in sys.stdin:
    start = time.process_time()
    for layer in scores:
        policy_topk_lru(layer, int(sys.argv[2]), int(sys.argv[3]))
    print(time.process_time() - start, flush=True)
"""


def made_up(tokens: int):
    """Router scores (layers, tokens, experts) of unevenly popular experts that stay for a while; and the trace."""
    import numpy as np

    from moeviz import ModelInfo, RoutingTrace
    from moeviz.routing_trace import token_frame

    rng = np.random.default_rng(0)
    popular = -0.7 * np.log(np.arange(1, EXPERTS + 1))
    scores = np.stack([rng.permutation(popular) + rng.gumbel(size=(tokens, EXPERTS)) for _ in range(LAYERS)])
    for token in range(1, tokens):
        scores[:, token] = 0.6 * scores[:, token] + 0.4 * scores[:, token - 1]
    experts = np.argsort(-scores, axis=-1)[..., :TOP_K].astype(np.int16)
    model = ModelInfo("made up", "test", tuple(range(LAYERS)), (EXPERTS,) * LAYERS, TOP_K)
    places = np.arange(tokens)
    return scores, RoutingTrace(model, token_frame(places // 512, places % 512, ["x"] * tokens), experts)


def ours(trace) -> dict[str, Callable[[], object]]:
    """What is timed, by its name."""
    from moeviz.serving.batches import batch_coverage
    from moeviz.serving.cache import expert_cache
    from moeviz.serving.placement import serving_placement
    from moeviz.serving.prefetch import _of_layer_before, prefetch_recall
    from moeviz.serving.requests import layer_sets

    found = list(layer_sets(trace))

    def layer_before() -> None:
        for before, then in pairwise(found):
            _of_layer_before(trace, before, then, trace.recorded)
        _of_layer_before(trace, found[0], found[1], trace.recorded)  # for the first layer, which has none before it

    return {
        "LRU, all capacities": lambda: expert_cache(trace, policies=["lru"]),
        "LFU, all capacities": lambda: expert_cache(trace, policies=["lfu"]),
        "Belady, 12 capacities": lambda: expert_cache(trace, CAPACITIES, ["belady"]),
        "bound, 12 capacities": lambda: expert_cache(trace, CAPACITIES, ["bound"]),
        "coverage": lambda: batch_coverage(trace),
        "recall, layer before": layer_before,
        "recall, all": lambda: prefetch_recall(trace),
        "placement, 4 plans": lambda: serving_placement(trace, 8, 8),
    }


def page(rounds: int) -> None:
    """Print what the page takes, for models of 64 and 128 experts."""
    from streamlit.testing.v1 import AppTest

    from moeviz.samples import sample_trace

    def script():
        from moeviz_app.pages.serve import serve_page

        serve_page()

    for experts in (64, 128):
        app = AppTest.from_function(script, default_timeout=120)
        app.session_state["trace"] = sample_trace(layers=48, tokens=256, experts=experts, top_k=8)
        seconds = []
        for _ in range(rounds + 1):
            start = time.process_time()
            app.run()
            seconds.append(time.process_time() - start)
            assert not app.exception
        print(f"page, {experts} experts: {statistics.median(seconds[1:]):.2f} s (target 0.5)")


class Peer:
    """A process that answers with the seconds of moe-policylang's LRU of one capacity over all layers."""

    def __init__(self, python: str, scores_file: str) -> None:
        command = [python, "-c", PEER, scores_file, str(TOP_K), str(CAPACITY)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self) -> float:
        """CPU time of one replay."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--peer", metavar="PYTHON", help="the Python of an environment with moe-policylang")
    parser.add_argument("--page", action="store_true", help="what the page of the app takes")
    wanted = parser.parse_args()
    if wanted.page:
        return page(wanted.rounds)
    import tempfile

    import numpy as np

    scores, trace = made_up(wanted.tokens)
    timed, times = ours(trace), {}
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, scores)
        peer = Peer(wanted.peer, file.name) if wanted.peer else None
        for _ in range(wanted.rounds + 1):
            for name, run in timed.items():
                start = time.process_time()
                run()
                times.setdefault(name, []).append(time.process_time() - start)
            if peer is not None:
                times.setdefault("moe-policylang: LRU, 1 capacity", []).append(peer.seconds())
        if peer is not None:
            peer.process.stdin.close()
            peer.process.wait()
    cells = wanted.tokens * LAYERS / 1e6
    middle = {name: statistics.median(seconds[1:]) / cells for name, seconds in times.items()}  # the first warms up
    lru = middle["LRU, all capacities"]
    print(f"{'':34}{'s per million':>14}{'x our LRU':>11}{'target':>9}")
    for name, seconds in middle.items():
        print(f"{name:34}{seconds:>14.3f}{seconds / lru:>11.2f}{TARGETS.get(name, ''):>9}")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    sys.exit(main())
