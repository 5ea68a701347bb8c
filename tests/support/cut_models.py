"""Models without some of their experts, made by hand: slices of the whole model's tensors, and no intervention."""

import copy

import torch
from tiny_models import tiny_model, tiny_tokenizer
from torch import nn
from transformers import PreTrainedConfig

from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.parameters import describe
from moeviz.capture.routers.discovery import find_routers

TEXTS = [
    ("French", "Il fait froid à Paris, et les gens restent à la maison."),
    ("sums", "12 + 30 = 42\n7 + 9 = 16\n45 - 6 = 39"),
    ("French", "Bonjour à tous. La lune est belle ce soir."),
    ("sums", "100 - 1 = 99\n3 * 4 = 12"),
    ("prose", "The people of the land went out, and it was cold."),
    ("prose", "She looked at the sea and said nothing for a long time."),
]


def strong(config: PreTrainedConfig) -> nn.Module:
    """A tiny model whose experts add enough to be missed."""
    model = tiny_model(config)
    with torch.no_grad():
        for router in find_routers(model):
            for module in router.experts.values():
                for values in module.parameters():
                    values.normal_(0, 0.2)
    return model


def loaded(model: nn.Module, name: str = "tiny") -> LoadedModel:
    """The model with a tokenizer, as `load_model` gives it."""
    return LoadedModel(model, tiny_tokenizer(), describe(model, name, None))


def without(model: nn.Module, cut: dict[int, tuple[int, ...]]) -> nn.Module:
    """A copy of a model whose experts are tensors with a row for each, without these."""
    smaller = copy.deepcopy(model)
    for router in find_routers(smaller):
        keep = torch.tensor([one for one in range(router.num_experts) if one not in cut.get(router.layer, ())])
        for module in (router.module, *router.experts.values()):
            for kind in (module._parameters, module._buffers):
                for name, values in kind.items():
                    if values is not None and len(values) == router.num_experts:
                        kind[name] = nn.Parameter(values.detach()[keep], requires_grad=False)
            module.num_experts = len(keep)
    return smaller


@torch.no_grad()
def logits_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """What the model itself says, (1, S, V)."""
    return model(ids, use_cache=False).logits
