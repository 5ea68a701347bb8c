"""Train every system of the history gallery once, and write what ships: python -m benchmarks.history [NAME ...]

The seconds that each takes are printed; what is written depends on the seed alone.
"""

import sys
import time

from moeviz.history.results import SHIPPED, save
from moeviz.history.systems import SYSTEMS, train

if __name__ == "__main__":
    for name in sys.argv[1:] or SYSTEMS:
        began = time.perf_counter()
        path = SHIPPED / f"{name}.npz"
        save(train(name), path)
        print(f"{name}: {time.perf_counter() - began:.1f} s, {path.stat().st_size:,} bytes")
