"""Files of other programs, cut and flipped: each is read, or refused in one sentence, in little time and memory.

    python -m tests.attack.import_damage [--tries 2000] [--seed 0] [--of parquet]

Every file of `tests/data/importers` in turn is cut at a random byte, or has up to eight random bits flipped, and is
read with what a person would tell beside it. Prints how many were read and refused, what took longest, and the most
memory that one reading added (the peak of the process, by Linux's count). Anything else that comes of one is shown.
"""

import argparse
import logging
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.harness import forget_peak, peak_mb

sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))
from importer_files import EXPECTED, FOLDER, READ, options_of

from moeviz.errors import MoevizError
from moeviz.formats.exports import opened_in, read_counted
from moeviz.formats.importers.importer import NOTHING_TOLD, Source, source_of

SECONDS, MEGABYTES, FLIPS = 1.0, 100.0, 8


def damaged(source: Source, rng: np.random.Generator) -> Source:
    """The same files, one of them cut or with some bits flipped."""
    name = str(rng.choice(sorted(source.files)))
    data = bytearray(source.files[name])
    if rng.random() < 0.4:
        data = data[: rng.integers(0, max(len(data), 1))]
    else:
        for _ in range(rng.integers(1, FLIPS + 1)):
            data[rng.integers(0, len(data))] ^= 1 << rng.integers(0, 8)
    return Source(source.name, source.files | {name: bytes(data)}, source.max_bytes)


def what_came(source: Source, name: str) -> str:
    """`read`, `refused`, or what else happened."""
    options = options_of(name) if name in READ else NOTHING_TOLD
    try:
        opened_in(source, None, options)
    except MoevizError as error:
        return "refused" if str(error).strip() and "\n" not in str(error) else f"refused, and not in a line: {error!r}"
    except Exception as error:  # what this program looks for
        return f"raw {type(error).__name__}: {error}"
    return "read"


def tried(tries: int, seed: int, of: str = "") -> tuple[Counter[str], tuple[float, str], tuple[float, str]]:
    """What came of so many damaged files, `of` in their names; the longest time and the most memory, with the file."""
    rng, names, came = np.random.default_rng(seed), sorted(n for n in EXPECTED if of in n), Counter[str]()
    whole = {name: source_of(FOLDER / name) for name in names}
    for name in READ:  # what is imported on first use is no file's
        read_counted(FOLDER / name, options=options_of(name))
    slowest, largest = (0.0, ""), (0.0, "")
    for number in range(tries):
        name = names[number % len(names)]
        source = damaged(whole[name], rng)
        forget_peak()
        before, start = peak_mb(), time.perf_counter()
        came[what_came(source, name)] += 1
        slowest = max(slowest, (time.perf_counter() - start, name))
        largest = max(largest, (peak_mb() - before, name))
    return came, slowest, largest


def main() -> int:
    """Exit code 1 if any file was neither read nor refused in a sentence, or took too long or too much."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tries", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--of", default="", help="only files with this in their names")
    args = arguments.parse_args()
    logging.disable()
    came, slowest, largest = tried(args.tries, args.seed, args.of)
    for what, count in came.most_common():
        print(f"{count:6,} {what[:200]}")
    print(f"longest {slowest[0]:.3f} s ({slowest[1]}), most memory {largest[0]:.1f} MB ({largest[1]})")
    return int(bool(came.keys() - {"read", "refused"}) or slowest[0] > SECONDS or largest[0] > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
