"""What a rank does in the tests of several ranks: `torchrun training_ranks.py loop|trainer FOLDER`."""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from training_runs import collate, tiny, trainer_of, windows

from moeviz.training import RoutingCallback, RoutingHealth

STEPS, EACH = 4, 4  # a step is of two micro-batches of so many rows


def loop(folder: Path) -> torch.nn.Module:
    """A plain loop; two ranks have a micro-batch each, one has both."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    rows, model = windows(count=STEPS * 2 * EACH, ragged=True), tiny()
    run = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    health, optimizer = RoutingHealth(run, folder / "run"), torch.optim.SGD(model.parameters(), 0.1)
    for step in range(STEPS):
        mine = [rank] if world > 1 else [0, 1]
        for place in mine:
            start = (2 * step + place) * EACH
            (run(**collate(rows[start : start + EACH])).loss / len(mine)).backward()
        health.gradients()
        optimizer.step()
        optimizer.zero_grad()
        health.step()
        health.report()
    return model


def trainer(folder: Path) -> torch.nn.Module:
    """Trainer: two ranks of one micro-batch, or one of two."""
    import os

    world = int(os.environ["WORLD_SIZE"])
    options = {"max_steps": STEPS, "gradient_accumulation_steps": 2 // world, "ddp_backend": "gloo"}
    options |= {"optim": "sgd", "learning_rate": 0.1, "average_tokens_across_devices": True}
    rows = windows(count=STEPS * 2 * EACH, ragged=True)
    model = tiny(router_aux_loss_coef=0.0)  # transformers multiplies the aux loss by micro-batches and by ranks
    made = trainer_of(model, rows, folder, RoutingCallback(folder / "run"), **options)
    made.train()
    return made.model


def main() -> None:
    """Run, and keep the weights."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    way, folder = {"loop": loop, "trainer": trainer}[sys.argv[1]], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    model = way(folder)
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save(model.state_dict(), folder / "weights.pt")
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
