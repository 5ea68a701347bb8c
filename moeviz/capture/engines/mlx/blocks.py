"""Find the MoE blocks of an MLX model, and the modules in them that are hooked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moeviz.capture.engines.mlx.installed import nn, switch_layers
from moeviz.errors import CaptureError

EXPERTS = ("SwitchGLU", "SwitchMLP")  # what mlx-lm runs the experts of nearly every MoE with
GATES = ("gate", "router")  # how its blocks call the module that scores experts
# For these, mlx-lm multiplies the inputs of the experts by the scores, and not their outputs.
SCALED_BEFORE = ("mlx_lm.models.llama4",)
SHARED = "share"  # in the names of what every token runs through: shared_experts, shared_mlp, share_expert …


@dataclass(frozen=True, slots=True)
class MoeBlock:
    """An MoE block of a model. Modules are the model's own."""

    layer: int
    within: Any  # the layer, which reads the residual stream
    path: str  # in it
    module: Any
    experts: Any
    gate: Any | None
    shared: tuple[Any, ...]

    @property
    def num_experts(self) -> int:
        """Routed experts."""
        first = self.experts.up_proj if isinstance(self.experts, switch_layers.SwitchGLU) else self.experts.fc1
        return int(first.num_experts)


def find_blocks(model: Any) -> list[MoeBlock]:
    """Find the MoE blocks of a model, one per layer, in order; none in a dense model.

    Raises `CaptureError` for a layer that has several, or that runs experts without a block of their own.
    """
    blocks: list[MoeBlock] = []
    if any(type(module).__module__ in SCALED_BEFORE for _, module in model.named_modules()):
        raise CaptureError(
            "mlx-lm's Llama 4 multiplies what goes into its experts, and not what comes out of them, so they have no "
            "weights as moeviz means them. Record it from the transformers checkpoint."
        )
    for layer, whole in enumerate(model.layers):
        found = list(_blocks_of(layer, whole))
        if len(found) > 1 or any(not block.path for block in found):
            raise CaptureError(
                f"Layer {layer} of this MLX model runs experts {len(found)} times, or outside a block of their own, "
                "and moeviz cannot tell which routing is the layer's. Record it from the transformers checkpoint."
            )
        blocks += found
    if len({id(block.module) for block in blocks}) < len(blocks):
        raise CaptureError(
            "Several layers of this MLX model share one MoE block, and moeviz cannot tell them apart. Record it from "
            "the transformers checkpoint."
        )
    return blocks


def _blocks_of(layer: int, whole: Any) -> Iterator[MoeBlock]:
    kinds = tuple(getattr(switch_layers, name) for name in EXPERTS)
    for path, module in whole.named_modules():
        children = {name: child for name, child in module.children().items() if isinstance(child, nn.Module)}
        for experts in (child for child in children.values() if isinstance(child, kinds)):
            gate = next((children[name] for name in GATES if name in children), None)
            shared = tuple(child for name, child in children.items() if SHARED in name and child is not experts)
            yield MoeBlock(layer, whole, path, module, experts, gate, shared)
