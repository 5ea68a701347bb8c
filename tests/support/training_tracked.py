"""What the test of Trackio runs by itself, since Trackio reads where its database lies when it is imported.

`python training_tracked.py FOLDER`.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from training_runs import tiny, trainer_of, windows

from moeviz.training import RoutingCallback


def main() -> None:
    """Train with `report_to=["trackio"]`, and keep the history of Trainer."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    trainer = trainer_of(tiny(), windows(ragged=True), folder, RoutingCallback(), report_to=["trackio"])
    trainer.train()
    (folder / "history.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main()
