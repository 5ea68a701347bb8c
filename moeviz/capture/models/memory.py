"""Memory for a model's weights: the bytes needed, the bytes free, and the refusal if it does not fit."""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from moeviz.capture.routers.discovery import LAYER_INDEX, find_routers, router_sites
from moeviz.errors import CaptureError
from moeviz.text import quoted

BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
OVERHEAD = 1.1  # of the weights, for what a run needs in addition


def bytes_needed(parameters: int, dtype: str | None) -> int:
    """Bytes that a model takes with its weights in `dtype` (a torch name; float32 if nothing says)."""
    return int(parameters * BITS.get(dtype or "float32", 32) // 8 * OVERHEAD)


def bytes_free(device_map: str | None) -> int | None:
    """Return the bytes that weights can take on a device, or on all for "auto"; None if the system does not say."""
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


DISK = "disk"  # the map by which layers stay on the disk, and each is read when it runs


def layer_lists(model: nn.Module) -> list[str]:
    """Return the paths of the lists of layers in which routers stand."""
    paths = (router.path for site in router_sites(model) for router in find_routers(model, site))
    found = (LAYER_INDEX.search(path) for path in paths)
    return [*dict.fromkeys(match.string[: match.start(1)].rstrip(".") for match in found if match)]


def layers_on_disk(model: nn.Module) -> dict[str, str]:
    """Return accelerate's device map of a model whose layers stay on the disk; all else is in memory."""
    lists = layer_lists(model)

    def places(path: str, part: nn.Module) -> Iterator[tuple[str, str]]:
        if path in lists:
            yield from ((f"{path}.{name}", DISK) for name, _ in part.named_children())
        elif not path or any(each.startswith(f"{path}.") for each in lists):
            for name, child in part.named_children():
                yield from places(f"{path}.{name}".lstrip("."), child)
            for name, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
                yield f"{path}.{name}".lstrip("."), "cpu"
        else:
            yield path, "cpu"

    return dict(places("", model))


def is_on_disk(model: object) -> bool:
    """Return whether some weights of a loaded model are read from disk only when they run."""
    network = getattr(model, "model", None)
    return isinstance(network, nn.Module) and any(parameter.is_meta for parameter in network.parameters())


def check_disk(name: str, model: nn.Module, bits: int, folder: str | Path | None) -> None:
    """Raise `CaptureError` unless the layers of a model fit on the disk, and one of them and all else in memory."""
    if folder is None:
        raise CaptureError(
            "Layers that stay on the disk need a folder, into which transformers may write them once more. Name one: "
            "offload_folder=, or --offload-folder on the command line."
        )
    whole = sum(parameter.numel() for parameter in model.parameters())
    layers = [
        sum(parameter.numel() for parameter in layer.parameters())
        for path in layer_lists(model)
        for layer in model.get_submodule(path).children()
    ]
    check_bytes(name, int((whole - sum(layers) + 2 * max(layers)) * bits // 8 * OVERHEAD), "for one layer", "cpu")
    place = Path(folder).absolute()
    free = shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free
    if (needed := sum(layers) * bits // 8) > free:
        raise CaptureError(
            f"The layers of {name} take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free in "
            f"{quoted(str(folder))}. Name a folder on another disk."
        )


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
