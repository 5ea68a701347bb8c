"""A recorded pair of runs: the same tiny model on the same texts, with the aux loss and without.

`python -m benchmarks.training_pair --write` trains them anew.
"""

from pathlib import Path

from moeviz.training.reading import read_run
from moeviz.training.recorded.run import TrainingRun

FOLDER = Path(__file__).parent / "example"
NAMES = ("aux-on", "aux-off")


def example_runs() -> dict[str, TrainingRun]:
    """The two runs by name, with snapshots of their probe set."""
    return {name: read_run(FOLDER / name) for name in NAMES}
