"""Private names of transformers and accelerate, all of them, for what replaces routers and experts.

Kernels and interventions replace functions of a model, which no public hook allows. Whatever they need from inside
those libraries is here, so that a release that renames it breaks only this file, and `make test-versions` reports it.
Recording with hooks does not import it: it uses public hooks only.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _default_apply_gate
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from moeviz.capture.models.patching import Undo, patched, patched_attribute


def own_place(module: nn.Module) -> str:
    """Return the attribute that holds a module's forward: accelerate puts its own before it, and keeps the model's."""
    return "_old_forward" if hasattr(module, "_hf_hook") else "forward"


def own_forward(module: nn.Module) -> Callable:
    """Return the forward of the model's own code."""
    return getattr(module, own_place(module))


def with_forward(module: nn.Module, forward: Callable) -> AbstractContextManager[None]:
    """Replace a module's forward in a block, for the thread that does so; others get its own.

    A graph that torch.compile makes meanwhile has the other forward, whichever thread runs it.
    """
    own, thread = own_forward(module), get_ident()

    def in_turn(*args: Any, **kwargs: Any) -> Any:
        ours = torch.compiler.is_compiling() or get_ident() == thread
        return (forward if ours else own)(*args, **kwargs)

    return patched_attribute(module, own_place(module), in_turn)


def running_device(model: PreTrainedModel) -> torch.device:
    """Return the device on which a model runs: the one that holds its weights, or to which they are brought.

    Weights that are brought are on the device "meta" until then.
    """
    if model.device.type != "meta":
        return model.device
    places = (getattr(getattr(part, "_hf_hook", None), "execution_device", None) for part in model.modules())
    return next((torch.device(place) for place in places if place not in (None, "meta")), torch.device("cpu"))


def offloading_hooks(module: nn.Module) -> tuple[int, ...]:
    """Return the identities of the hooks that bring the weights of a module's parts, if there are any."""
    return tuple(id(part._hf_hook) for part in module.modules() if "_hf_hook" in vars(part))


def registered_experts(model: PreTrainedModel) -> list[nn.Module]:
    """Return the experts that look up their implementation in transformers' registry."""
    return [module for module in model.modules() if "_is_expert_parallel" in vars(module)]


def is_expert_parallel(experts: nn.Module) -> bool:
    """True if experts are spread over devices by expert."""
    return experts._is_expert_parallel


def has_own_gate(experts: nn.Module) -> bool:
    """True if experts combine gate and up in their own way, such as one that clamps."""
    return type(experts)._apply_gate is not _default_apply_gate


def apply_gate(experts: nn.Module) -> Callable:
    """Return how experts combine gate and up."""
    return experts._apply_gate


def register_experts(name: str, forward: Callable) -> None:
    """Add an implementation to the registry."""
    ALL_EXPERTS_FUNCTIONS.register(name, forward)


def experts_implementation(name: str) -> Callable:
    """Return one of transformers' own implementations."""
    return ALL_EXPERTS_FUNCTIONS[name]


@contextmanager
def with_attention(model: PreTrainedModel, name: str, attention: Callable) -> Iterator[None]:
    """Inside the block, all attention of a model that goes through transformers' registry is computed by a function."""
    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}

    def put() -> Undo:
        before = [(config, config._attn_implementation) for config in configs.values()]
        for config in configs.values():
            config._attn_implementation = name

        def undo() -> None:
            for config, own in before:  # a config sets those inside it too, and comes before them
                config._attn_implementation = own

        return undo

    with patched(put):
        yield
