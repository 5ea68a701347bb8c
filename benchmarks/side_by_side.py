"""Does capture cost what it cost in another checkout? Both take turns, forward by forward, in a process each.

    python -m benchmarks.side_by_side FOLDER [--rounds N]

Printed is, for each way of `benchmarks.capture` and each length, the CPU time of its thread here / there: the median
over rounds of the ratio of two forwards that ran one after the other, in random order, the middle half, and the ratio
of the fastest forwards, which other work on the machine moves least.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent.parent
LENGTHS = (1, 64, 512)
WAYS = ("bare", "moeviz", "moeviz + logits", "kernels", "kernels + logits")
WARM_UP = 5


class Checkout:
    """A process that runs the code of a folder, a forward whenever it is asked."""

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join(map(str, (folder, folder / "kernels")))
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", __file__, "--child"]  # without the folder of this file
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
        if Path(self.process.stdout.readline().strip()).parent.parent != folder:
            raise SystemExit(f"{folder} holds no moeviz.")

    def seconds(self, tokens: int, way: str) -> float:
        """CPU time of one forward."""
        self.process.stdin.write(f"{tokens}|{way}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def child() -> None:
    """Answer with the seconds of a forward, whenever a line asks for it."""
    import torch

    import moeviz
    from benchmarks import capture

    torch.set_num_threads(1)
    model = moeviz.load_model().model
    print(moeviz.__file__, flush=True)
    with torch.no_grad():
        for line in sys.stdin:
            tokens, way = line.strip().split("|")
            with capture.WAYS[way](model) as (arguments, _tensors):
                forward = capture._forward(model, int(tokens), arguments)
                start = time.thread_time()
                forward()
                took = time.thread_time() - start
            print(took, flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=300, help="pairs of forwards for each line (default 300)")
    wanted = parser.parse_args()
    here, there = Checkout(HERE), Checkout(wanted.folder.resolve())
    print(f"{'tokens':>6}  {'way':<22}{'here / there':>12}   {'middle half':<16}{'fastest':>8}")
    for tokens in LENGTHS:
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(wanted.rounds + WARM_UP):
            for way in random.sample(WAYS, len(WAYS)):
                took = {checkout: checkout.seconds(tokens, way) for checkout in random.sample((here, there), 2)}
                times[way].append((took[here], took[there]))
        for way, pairs in times.items():
            low, middle, high = statistics.quantiles([ours / theirs for ours, theirs in pairs[WARM_UP:]], n=4)
            fastest = min(ours for ours, _ in pairs) / min(theirs for _, theirs in pairs)
            print(f"{tokens:>6}  {way:<22}{middle:>12.3f}   {low:.3f} to {high:.3f}  {fastest:>8.3f}", flush=True)
    here.close()
    there.close()


if __name__ == "__main__":
    child() if "--child" in sys.argv else main()
