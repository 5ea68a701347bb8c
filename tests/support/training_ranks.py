"""What a rank does in the test of several ranks: `torchrun training_ranks.py FOLDER`."""

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from training_runs import tiny, trainer_of, windows

from moeviz.training import RoutingCallback

STEPS, EACH = 4, 4  # a step is of two micro-batches of so many rows


def trained(folder: Path, world: int) -> dict[str, torch.Tensor]:
    """Train as two ranks of one micro-batch, or as one of two; the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"max_steps": STEPS, "gradient_accumulation_steps": 2 // world}
    options |= {"ddp_backend": "gloo"} if world > 1 else {}
    options |= {"optim": "sgd", "learning_rate": 0.1, "average_tokens_across_devices": True}
    rows = windows(count=STEPS * 2 * EACH, ragged=True)
    model = tiny(router_aux_loss_coef=0.0)  # transformers multiplies the aux loss by micro-batches and by ranks
    made = trainer_of(model, rows, folder, RoutingCallback(folder / "run"), **options)
    made.train()
    return made.model.state_dict()


def main() -> None:
    """Run, and keep the weights."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    weights = trained(folder, int(os.environ["WORLD_SIZE"]))
    if dist.get_rank() == 0:
        torch.save(weights, folder / "weights.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
