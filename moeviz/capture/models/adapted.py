"""Models with adapters: PEFT puts LoRA's layers into the model, and a wrapper around it that changes nothing."""

from typing import Any, cast

from torch import nn

from moeviz.errors import CaptureError


def without_wrapper(model: nn.Module) -> nn.Module:
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
