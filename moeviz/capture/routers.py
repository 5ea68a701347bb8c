"""Find the routers of a transformers model: the modules that the model's own code declares as such.

Names are not trusted: substrings such as 'gate' also match `gate_proj` and `shared_expert_gate`. transformers
declares, per architecture, which module class gives `router_logits` (`_can_record_outputs`); those are the routers.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from moeviz.errors import CaptureError

LAYER_INDEX = re.compile(r"(?:^|\.)(?:layers|blocks|block|h)\.(\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """One router of a model and the experts it chooses from."""

    path: str  # "model.layers.3.mlp.gate"
    layer: int  # the model's own layer index
    module: nn.Module
    experts_path: str  # "model.layers.3.mlp.experts"
    num_experts: int
    top_k: int

    @property
    def block_path(self) -> str:
        """Path of the MoE block that holds the router."""
        return self.path.rpartition(".")[0]


def find_routers(model: nn.Module) -> tuple[Router, ...]:
    """Every router that `model` declares, by layer.

    Raises
    ------
    CaptureError: it declares none (a dense model), or two at one layer, or one whose experts are not found.
    """
    parts = dict(model.named_modules())
    declared = tuple(_declared_classes(parts.values()))
    routers = [_router(model, path, parts) for path, part in parts.items() if isinstance(part, declared)]
    if not routers:
        raise CaptureError(
            f"{type(model).__name__} declares no router, so there is no routing to record. Is it a dense model? "
            "Choose a Mixture-of-Experts model, such as Mixtral, OLMoE or Qwen3-MoE."
        )
    routers.sort(key=lambda router: router.layer)
    for one, other in pairwise(routers):
        if one.layer == other.layer:
            raise CaptureError(
                f"{type(model).__name__} has two routers at layer {one.layer} ({one.path} and {other.path}); moeviz "
                "reads models with one router a layer."
            )
    return tuple(routers)


def _declared_classes(parts: Iterable[nn.Module]) -> Iterator[type]:
    for kind in {type(part) for part in parts}:
        specs = (getattr(kind, "_can_record_outputs", None) or {}).get("router_logits", [])
        for spec in specs if isinstance(specs, list) else [specs]:
            declared = getattr(spec, "target_class", spec)
            if isinstance(declared, type):
                yield declared


def _router(model: nn.Module, path: str, parts: dict[str, nn.Module]) -> Router:
    name, index, module = type(model).__name__, LAYER_INDEX.search(path), parts[path]
    block_path = path.rpartition(".")[0]
    experts_path = f"{block_path}.experts" if block_path else "experts"
    block, experts = parts[block_path], parts.get(experts_path)
    num_experts = _first_number("num_experts", module, experts, block)
    top_k = _first_number("top_k", module, block)
    if index is None or experts is None or num_experts is None or top_k is None:
        raise CaptureError(
            f"{name} declares {type(module).__name__} at {path} as a router, but moeviz does not know its shape: it "
            "needs a layer index in the path, an `experts` module beside the router, `num_experts` and `top_k`."
        )
    return Router(path, int(index.group(1)), module, experts_path, num_experts, top_k)


def _first_number(attribute: str, *parts: nn.Module | None) -> int | None:
    found = (getattr(part, attribute, None) for part in parts)
    return next((number for number in found if isinstance(number, int)), None)
