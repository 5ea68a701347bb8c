"""Find the routers of a transformers model, the modules that its code declares as such, and in which order they run.

Names are not trusted: substrings such as 'gate' also match `gate_proj` and `shared_expert_gate`. transformers
declares, per architecture, which module class gives `router_logits` (`_can_record_outputs`); those are the routers.
Routers that are declared otherwise, or not at all, have a row in ROUTER_ADAPTERS.

Some models run a few of their layers several times in one forward. The survey (`tests/survey`) reads every MoE
architecture of transformers 5.25: those in LOOPED call a router more than once in a forward, and no other does. In any
other model, a module that answers more often than it should is not a layer.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from moeviz.capture.routers.router_adapters import PLAIN_WRITER, ROUTER_ADAPTERS, Answer, RouterAdapter, Writer
from moeviz.errors import CaptureError
from moeviz.text import quoted

LAYER_INDEX = re.compile(r"(?:^|\.)(?:layers|blocks|block|h)\.(\d+)(?:\.|$)")
# For models with routers of several kinds: the name of each site, and a word in the paths of its routers.
SITES = {
    "encoder": re.compile(r"\bencoder\b"),
    "decoder": re.compile(r"\bdecoder\b"),
    "images": re.compile(r"\bvision_(moe|tower)\b"),
    "text": re.compile(r"\b(text_moe|language_model)\b"),
    "attention": re.compile(r"\bself_attention\b"),
}
OTHER_SITE = "feed-forward"
SITE_BY_DEFAULT = (OTHER_SITE, "text", "encoder")
ADAPTED = "ParamWrapper"  # PEFT's, around a module of which LoRA changes a parameter
INSIDE = "base_layer"
COPIED = "ModulesToSaveWrapper"  # PEFT's, around a module of which each adapter trains a copy of its own
COPIES, ORIGINAL = "modules_to_save", "original_module"
WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)$")


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """One router of a model and the experts it chooses from."""

    path: str  # "model.layers.3.mlp.gate"
    layer: int  # the model's own layer index
    module: nn.Module
    block: nn.Module  # what holds the router
    experts: dict[str, nn.Module]  # the modules with the experts' weights, by path
    num_experts: int  # those that compute nothing too
    zero_experts: int  # the last of them, which compute nothing
    top_k: int
    site: str = ""  # one of SITES, or OTHER_SITE; "" in a model that has one site
    adapter: RouterAdapter | None = None  # how it differs from most

    @property
    def block_path(self) -> str:
        """Path of the MoE block that holds the router."""
        return unwrapped_path(self.path).rpartition(".")[0]

    @property
    def kind(self) -> str:
        """Class of the router."""
        return type(self.module).__name__

    @property
    def factor(self) -> float:
        """Number by which the block multiplies its experts' sum, on top of the weights that the router gives them."""
        return float(self.adapter.factor(self.block)) if self.adapter and self.adapter.factor else 1.0

    def read(self, given: tuple, answer: tuple) -> Answer:
        """Read the router's answer as (logits, weights, expert ids), weights with the block's `factor`."""
        if self.adapter is None:
            return answer
        logits, weights, experts = self.decided(given, answer)
        return logits, weights if self.adapter.factor is None else weights * self.factor, experts

    def decided(self, given: tuple, answer: tuple) -> Answer:
        """Read the router's answer as (logits, weights, expert ids), weights without the block's `factor`."""
        return (answer if self.adapter is None else self.adapter.read(self.module, given, answer))[:3]

    @property
    def writer(self) -> Writer | None:
        """Return the function that replaces the decision in the router's answer; None if there is none."""
        return PLAIN_WRITER if self.adapter is None else self.adapter.writer


def find_routers(model: nn.Module, site: str | None = None) -> tuple[Router, ...]:
    """Find the routers that `model` declares, by layer; those of one site, if it has several.

    site   "encoder" or "decoder", "attention" or "feed-forward", "text" or "images". Default: "feed-forward", "text"
           or "encoder".

    Raises
    ------
    CaptureError: it declares none (a dense model), or two at one layer, or one whose experts are not found, or one that
    must choose more experts than there are; experts without a router; a site that it does not have.
    """
    routers = _all_routers(model)
    sites = list(dict.fromkeys(router.site for router in routers))
    if site is None:
        site = next((name for name in SITE_BY_DEFAULT if name in sites), sites[0])
    if site not in sites:
        choice = f"choose {' or '.join(map(repr, sites))}" if any(sites) else "it has one kind only: leave the site out"
        raise CaptureError(f"{type(model).__name__} has no routers at {quoted(site)}; {choice}.")
    found = sorted((router for router in routers if router.site == site), key=lambda router: router.layer)
    for one, other in pairwise(found):
        if one.layer == other.layer:
            raise CaptureError(
                f"{type(model).__name__} has two routers in layer {one.layer} ({one.path} and {other.path}), and "
                "moeviz does not know how to distinguish them. Please report this model."
            )
    return tuple(found)


def router_sites(model: nn.Module) -> tuple[str, ...]:
    """Return the sites of a model's routers; ("",) if there is only one."""
    return tuple(dict.fromkeys(router.site for router in _all_routers(model)))


def _all_routers(model: nn.Module) -> list[Router]:
    parts = modules_in_use(model)
    declared = tuple(_declared_classes(parts.values()))
    paths = [p for p, part in parts.items() if isinstance(part, declared) or type(part).__name__ in ROUTER_ADAPTERS]
    paths = [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]  # a block, declared
    if not paths:
        raise CaptureError(
            f"{type(model).__name__} declares no router, so there is no routing to record. Is it a dense model? "
            "Choose a Mixture-of-Experts model, such as Mixtral, OLMoE or Qwen3-MoE, or give an adapter that reads its "
            "router (moeviz.adapters.register, or --adapter on the command line)."
        )
    sites = {path: next((name for name, word in SITES.items() if word.search(path)), OTHER_SITE) for path in paths}
    if len(set(sites.values())) == 1:
        sites = dict.fromkeys(paths, "")
    routers = [_router(model, path, parts, site) for path, site in sites.items()]
    _check_all_are_found(model, parts, routers)
    return routers


def modules_in_use(model: nn.Module) -> dict[str, nn.Module]:
    """List the modules of a model by path, without PEFT's copies that do not run at present."""
    parts = dict(model.named_modules())
    idle = tuple(
        f"{path}.{name}."
        for path, wrapper in parts.items()
        if type(wrapper).__name__ == COPIED
        for name, copy in wrapper.named_modules()
        if name == ORIGINAL or name.rpartition(".")[0] == COPIES
        if copy is not active_module(wrapper)
    )
    return {path: part for path, part in parts.items() if not f"{path}.".startswith(idle)} if idle else parts


def active_module(part: nn.Module) -> nn.Module:
    """Return the module that runs inside PEFT's wrapper with copies: the active adapter's copy, or the original."""
    if type(part).__name__ != COPIED:
        return part
    copies = part.get_submodule(COPIES)
    active = [] if part.disable_adapters else [copies[name] for name in part.active_adapters if name in copies]
    return active[0] if active else part.get_submodule(ORIGINAL)


def _declared_classes(parts: Iterable[nn.Module]) -> Iterator[type]:
    for kind in {type(part) for part in parts}:
        specs = (getattr(kind, "_can_record_outputs", None) or {}).get("router_logits", [])
        for spec in specs if isinstance(specs, list) else [specs]:
            declared = getattr(spec, "target_class", spec)
            if isinstance(declared, type):
                yield declared


def _router(model: nn.Module, path: str, parts: dict[str, nn.Module], site: str) -> Router:
    module, index = parts[path], LAYER_INDEX.search(path)
    adapter = ROUTER_ADAPTERS.get(type(module).__name__)
    place = unwrapped_path(path)
    block_path = place.rpartition(".")[0]
    block = parts[block_path]
    experts = _experts(place, parts, adapter.experts if adapter else ("experts",))
    num_experts = adapter.num_experts(module) if adapter else None
    if not isinstance(num_experts, int):
        num_experts = _first_number("num_experts", module, *map(unwrapped_module, experts.values()), block)
    top_k = (adapter.top_k(module) if adapter else None) or _first_number("top_k", module, block)
    adapted = type(parts[place]).__name__ in (ADAPTED, COPIED)
    if index is None or not experts or num_experts is None or top_k is None or (place != path and not adapted):
        raise CaptureError(
            f"{type(model).__name__} declares {type(module).__name__} at {path} as a router, but moeviz does not know "
            "its form: it needs a layer index in the path, an `experts` module next to the router, `num_experts` and "
            "`top_k`."
        )
    zero = adapter.zero_experts(module) if adapter else 0
    if num_experts < 1 or not 1 <= top_k <= num_experts + zero:
        raise CaptureError(
            f"The router of {type(model).__name__} at {path} is to choose {top_k} of {num_experts + zero} experts. It "
            "needs at least one expert, and can choose no more than there are: check the config."
        )
    return Router(path, int(index.group(1)), module, block, experts, num_experts + zero, zero, top_k, site, adapter)


def unwrapped_path(path: str) -> str:
    """Return a router's path without the adapters that may wrap it."""
    while found := WRAPPED.search(path):
        path = path[: found.start()]
    return path


def unwrapped_module(part: nn.Module) -> nn.Module:
    """Return a module without the adapters around it."""
    while type(part).__name__ in (ADAPTED, COPIED):
        part = part.get_submodule(INSIDE) if type(part).__name__ == ADAPTED else active_module(part)
    return part


def _experts(path: str, parts: dict[str, nn.Module], names: Sequence[str]) -> dict[str, nn.Module]:
    """Find the experts of the router at `path`: next to it, or in it."""
    places = [f"{home}.{name}".lstrip(".") for home in (path.rpartition(".")[0], path) for name in names]
    return {place: active_module(parts[place]) for place in places if place in parts}


def _check_all_are_found(model: nn.Module, parts: dict[str, nn.Module], routers: Sequence[Router]) -> None:
    """Raise `CaptureError` for experts without a router: half of the layers would look like all of them."""
    known = {path for router in routers for path in (*router.experts, router.block_path)}
    for path, part in parts.items():
        if path.rpartition(".")[2] == "experts" and path not in known:
            raise CaptureError(
                f"{type(model).__name__} has {type(part).__name__} at {path}, but declares no router for them. moeviz "
                "does not show some of the layers as if they were all."
            )


def _first_number(attribute: str, *parts: nn.Module | None) -> int | None:
    found = (getattr(part, attribute, None) for part in parts)
    return next((number for number in found if isinstance(number, int)), None)


def expert_tensors(model: nn.Module) -> dict[int, list[str]]:
    """Name the parameters that hold all experts' weights of a layer, by layer; none if experts are modules."""
    return {
        router.layer: [
            f"{path}.{name}"
            for path, module in router.experts.items()
            for name, values in module.named_parameters()
            if values.dim() == 3 and len(values) == router.num_experts
        ]
        for router in find_routers(model)
    }


class Loop(NamedTuple):
    """Layers from `start` to `end` (exclusive) run `passes` times, one pass after the other."""

    start: int
    end: int
    passes: int


LOOPED: dict[str, Callable[[object], Loop]] = {  # by config.model_type
    "inkling2_loop_text": lambda config: Loop(
        config.loop_layer_index_start, config.loop_layer_index_end, config.loop_num_passes
    )
}


def order_of(model: nn.Module, routers: Sequence[Router]) -> tuple[int, ...]:
    """Return the order in which a forward calls the routers: their indices, each once unless its layer is in a loop."""
    config = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    looped = LOOPED.get(getattr(config, "model_type", ""))
    if looped is None:
        return tuple(range(len(routers)))
    loop = looped(config)
    before, inside, after = [], [], []
    for index, router in enumerate(routers):
        place = before if router.layer < loop.start else inside if router.layer < loop.end else after
        place.append(index)
    return (*before, *inside * loop.passes, *after)


LAYER_KIND = "unrolled layer"


def unrolled_layers(layers: Sequence[int], order: Sequence[int]) -> list[int]:
    """Return the depth of each call in a forward: `layers` are the routers' own, `order` the order of their calls.

    >>> unrolled_layers([0, 1, 2], [0, 1, 2, 1, 2])
    [0, 1, 2, 3, 4]
    """
    depths: list[int] = []
    added = 0
    for layer in (layers[index] for index in order):
        last = depths[-1] - added if depths else -1
        if layer <= last:  # a new pass begins
            added += last + 1 - layer
        depths.append(layer + added)
    return depths


def is_unrolled(routers: tuple[Router, ...]) -> bool:
    """Return whether a router stands for several layers."""
    return len({router.path for router in routers}) < len(routers)
