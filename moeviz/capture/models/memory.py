"""Memory for a model's weights: the bytes needed, the bytes free, and the refusal if it does not fit."""

import gc
from pathlib import Path

import torch

from moeviz.errors import CaptureError

BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
OVERHEAD = 1.1  # of the weights, for what a run needs in addition


def bytes_needed(parameters: int, dtype: str | None) -> int:
    """Bytes that a model takes with its weights in `dtype` (a torch name; float32 if nothing says)."""
    return int(parameters * BITS.get(dtype or "float32", 32) // 8 * OVERHEAD)


def bytes_free(device_map: str | None) -> int | None:
    """Bytes that weights can take there: on one device, or on all for "auto". None if the system does not say."""
    on_gpus = {f"cuda:{i}": torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())}
    if device_map in on_gpus:
        return on_gpus[device_map]
    memory = _free_memory()
    if device_map == "cpu" or not on_gpus or memory is None:
        return memory
    return memory + sum(on_gpus.values())


def device_of(device_map: str | None) -> str:
    """Return where a model is opened: "cpu", "cuda:1", or "auto" if it may be spread over several GPUs.

    Raises `CaptureError` for a GPU that is not there.

    >>> device_of("cpu")
    'cpu'
    """
    gpus = torch.cuda.device_count()
    if device_map in (None, "auto"):
        return {0: "cpu", 1: "cuda:0"}.get(gpus, "auto")
    if device_map != "cpu" and device_map not in [f"cuda:{number}" for number in range(gpus)]:
        has = f"only {', '.join(f'cuda:{number}' for number in range(gpus))}" if gpus else "no GPU that torch can use"
        raise CaptureError(f"The device {device_map!r} is not there: this machine has {has}. Choose another, or 'cpu'.")
    return device_map


def release_memory() -> None:
    """Give the memory of models that nobody holds any more back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_fits(name: str, parameters: int, dtype: str | None, device_map: str | None) -> None:
    """Raise `CaptureError` if a model with these parameters does not fit."""
    check_bytes(name, bytes_needed(parameters, dtype), f"in {dtype or 'float32'}", device_map)


def check_bytes(name: str, needed: int, stored: str, device_map: str | None) -> None:
    """Raise `CaptureError` unless `needed` bytes are free; `stored` names their form, for the message."""
    free = bytes_free(device_map)
    if free is not None and needed > free:
        raise CaptureError(
            f"{name} needs about {needed / 1e9:,.1f} GB {stored}, and {free / 1e9:,.1f} GB are free here. Choose a "
            "smaller model, a dtype with fewer bits, or a machine with more memory; “moeviz params” shows which cards "
            "can hold it. To load it all the same: `check_memory=False`, or `--ignore-memory` on the command line."
        )


def _free_memory() -> int | None:
    """Return the free memory of this machine, or of the container that we run in if that is less."""
    if not MEMINFO.exists():
        return None
    lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    most, used = (CGROUP / name for name in ("memory.max", "memory.current"))
    if most.exists() and used.exists() and (limit := most.read_text().strip()).isdecimal():
        free = min(free, int(limit) - int(used.read_text()))
    return free
