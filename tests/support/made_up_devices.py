"""Two devices that are not there, `made:0` and `made:1`, in plain Python: what mixes them fails as it does on two GPUs.

A tensor on one is a wrapper around a tensor of the CPU, where all is computed. An operator that gets tensors of two
devices raises what CUDA raises, and so does one that gets the CPU's beside a device's, unless it is a number or an
index. Matrices that are tied are taken apart on the way to such a device: accelerate knows them by their memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "made"
DEVICES = (f"{NAME}:0", f"{NAME}:1")
COPIES = ("aten::copy_", "aten::_to_copy")  # between devices
INDEXED = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")  # by the CPU's indices too


class OnDevice(Tensor):
    """A tensor that says it is on a made-up device."""

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "OnDevice":
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )

    def __init__(self, held: Tensor, device: torch.device) -> None:
        self.held = held

    def tolist(self) -> list | float:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    name, given = func._schema.name, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    device = kwargs.get("device") or next((tensor.device for tensor in given if isinstance(tensor, OnDevice)), None)
    if name not in COPIES:
        _check_one_device(name, given)
    held_args, held_kwargs = tree_map(_held, (args, kwargs))
    if "device" in kwargs:
        held_kwargs["device"] = torch.device("cpu")
    held_kwargs.pop("pin_memory", None)
    made = func(*held_args, **held_kwargs)
    if name.endswith("_") and not name.endswith("__"):
        return args[0]
    goes_to = torch.device(device)
    if goes_to.type != NAME:
        return made
    return tree_map(lambda leaf: OnDevice(leaf, goes_to) if isinstance(leaf, Tensor) else leaf, made)


def _held(leaf):
    return leaf.held if isinstance(leaf, OnDevice) else leaf


def _check_one_device(name: str, given: list[Tensor]) -> None:
    counted = given[:1] + [t for t in given[1:] if t.device.type == NAME] if name in INDEXED else given
    devices = sorted({str(tensor.device) for tensor in counted if tensor.dim() or tensor.device.type == NAME})
    if len(devices) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but found {' and '.join(devices)} ({name})")


class _Module(_DummyBackendModule):
    def device_count(self) -> int:
        return len(DEVICES)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Once a process has this backend, what is checkpointed asks for it, also of a model on the CPU."""
        return [torch.bfloat16]


class _FromPython(TorchFunctionMode):
    """Make tensors of Python's numbers on the CPU first, since torch makes them past a tensor's own code."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == NAME:
            return func(*args, **kwargs | {"device": "cpu"}).to(kwargs["device"])
        if args and isinstance(args[0], OnDevice):
            if func is Tensor.new_tensor:
                return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
            if func is Tensor.__setitem__:
                _check_one_device("aten::index_put_", [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)])
                held, where, what = tree_map(_held, args)
                held[where] = what
                return None
        return func(*args, **kwargs)


@contextmanager
def made_up_devices() -> Iterator[tuple[str, ...]]:
    """Inside the block there are two devices, of these names."""
    _backend()
    with _FromPython():
        yield DEVICES


@cache
def _backend() -> torch.library.Library:
    _setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    # These devices have no allocator that caches, and torch ends in an assertion when accelerate asks for it.
    torch._C._accelerator_isAllocatorInitialized = lambda: False
    return library  # kept: it takes back what it has registered when it goes
