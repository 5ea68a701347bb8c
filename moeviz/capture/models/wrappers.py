"""Wrappers around a transformers model: torch.compile's, and PEFT's with its adapters.

Hooks that are set after torch.compile are silently ignored by what it made, so the trace would be empty. Compiled
models therefore run eagerly while they are recorded. For a model that is to stay compiled,
`moeviz.capture.record.kernel_recording` writes its record from inside the graph. PEFT puts LoRA's layers into the
model, and a wrapper around it that changes nothing.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from torch import nn
from torch._dynamo import OptimizedModule

from moeviz.capture.models.patching import patched_attribute
from moeviz.errors import CaptureError

log = logging.getLogger("moeviz.capture")
ORIGINAL = "_torchdynamo_orig_callable"  # a compiled function's own


def eager_model(model: nn.Module) -> nn.Module:
    """The model itself, where it is wrapped by `torch.compile(model)`."""
    return model._orig_mod if isinstance(model, OptimizedModule) else model


@contextmanager
def eager_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block nothing of `model` runs compiled: not `model.compile()`, not a part that torch.compile wraps."""
    with ExitStack() as stack:
        changed = [
            stack.enter_context(patched_attribute(*change)) for part in model.modules() for change in _undone(part)
        ]
        if changed:
            log.info("%s is compiled; while it is being recorded, it runs uncompiled.", type(model).__name__)
        yield


def is_compiled(model: nn.Module) -> bool:
    """True where `eager_mode` has something to undo."""
    return any(True for part in model.modules() for _ in _undone(part))


def _undone(part: nn.Module) -> Iterator[tuple[nn.Module, str, object]]:
    """The changes to a module that make it run uncompiled."""
    if isinstance(part, OptimizedModule):
        yield part, "forward", part._orig_mod.__call__
    elif (forward := vars(part).get("forward")) is not None and hasattr(forward, ORIGINAL):
        yield part, "forward", getattr(forward, ORIGINAL)
    if vars(part).get("_compiled_call_impl") is not None:
        yield part, "_compiled_call_impl", None


def unwrap_peft(model: nn.Module) -> nn.Module:
    """The transformers model inside a PeftModel, with its adapters; any other model as it is.

    Raises `CaptureError` for prompt learning, whose wrapper gives the model more to read than the prompt.
    """
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return model
    wrapper: Any = model
    config = wrapper.active_peft_config
    if config.is_prompt_learning:
        raise CaptureError(
            f"This {type(model).__name__} learns its prompt ({type(config).__name__}): it reads vectors that are no "
            "tokens, and moeviz cannot tell their routing from that of the tokens. Trace the model without the adapter."
        )
    return cast(nn.Module, wrapper.get_base_model())
