"""Hook the MoE blocks of an MLX model: which experts each token is sent to, and with which weights.

T tokens of a forward, K slots, E experts, D the width of the model.

* ids      what the module that runs the experts is given.
* weights  mlx-lm's blocks compute them and do not return them. So a block runs a second time on the same input,
           with a unit matrix (K, D) for its experts' answers and zeros for those of its shared experts: what the
           block's own code then adds up are the factors that it multiplies with. MLX is lazy, so no expert runs twice.
* figures  of what the module that runs the experts answers, if they are wanted: the answers themselves are not kept.
* logits   what a linear gate answers, or what `…_expert_select` is given. Other gates have none.

A block whose output is something else than a weighted sum of its experts' answers would be misread. So before a model
is used, `BlockHooks.check` gives every block random answers of its experts, large ones, and compares the output.

The hooks change the classes of the model's own modules, one by one, and nothing that other models share.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import numpy as np

from moeviz.capture.engines.mlx.blocks import MoeBlock
from moeviz.capture.engines.mlx.installed import mx, nn
from moeviz.errors import CaptureError

SELECT = "expert_select"  # in the names of mlx-lm's functions that choose experts by given logits
LOUD = {"mlx.core.float16": 64.0}  # how far random answers outweigh what else a block adds; float16 ends at 65,504
LOUD_ELSEWHERE = 16384.0
AGREES = {"mlx.core.float32": 1e-3}  # of the largest number in the sum
AGREES_ELSEWHERE = 2e-2
TINY = float(np.finfo(np.float32).tiny)


@dataclass(slots=True)
class BlockRouting:
    """The decision of one block in one forward: lazy arrays of MLX."""

    experts: Any  # (…, K)
    weights: Any  # (…, K)
    logits: Any | None  # (…, E)
    figures: Any | None = None  # (T, K, FIGURES), as of `ExpertOutputs`; added is left 0
    stream: bool = False  # whether the layer's residual stream is among them


@dataclass(slots=True)
class _Call:
    """One call of a block, while it goes on."""

    ids: Any = None
    answer: Any = None  # (…, K, D), instead of the experts' own
    quiet: bool = False  # whether shared experts answer with zeros
    gate: Any = None  # what the gate answered in the first run, to be answered again in the second
    logits: Any = None
    own: Any = None  # (…, K, D): the experts' own answer


@dataclass(slots=True)
class BlockHooks:
    """Hooks in all MoE blocks of one model. `recorded` has the last forward, by layer."""

    blocks: list[MoeBlock]
    recorded: dict[int, BlockRouting] = field(default_factory=dict)
    wants_figures: bool = False
    streams: dict[int, Any] = field(default_factory=dict)  # what the layers read, until their blocks are recorded
    checks: list[tuple[int, Any, Any]] | None = None  # while `check` goes on: (layer, error, what is allowed)

    def __post_init__(self) -> None:
        for block in self.blocks:
            _hook_block(self, block)

    def check(self, forward: Callable[[], Any]) -> None:
        """Run `forward`, and raise `CaptureError` unless every block adds up its experts as recorded."""
        self.checks = []
        try:
            mx.eval(forward())
            for layer, error, allowed in self.checks:
                if not float(error) <= float(allowed):  # NaN does not agree either
                    raise CaptureError(
                        f"What the experts of layer {layer} answer does not enter this MLX model as a weighted sum "
                        f"(off by {float(error):.3g}, where {float(allowed):.3g} is rounding), so moeviz cannot say "
                        "with which weights. Record it from the transformers checkpoint."
                    )
        finally:
            self.checks = None


def host(array: Any) -> np.ndarray:
    """Return an array of MLX as numpy's; bfloat16, which numpy lacks, as float32."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def _hook_block(hooks: BlockHooks, block: MoeBlock) -> None:
    """Give the modules of a block classes of their own, which record what they do."""
    now: list[_Call] = []  # the call that goes on, if any
    _wrap_call(block.module, _block_call(hooks, block, now))
    _wrap_call(block.experts, _experts_call(block, now))
    _wrap_call(block.within, _layer_call(hooks, block.layer))
    if block.gate is not None:
        linear = _linear_of(block.gate, block.num_experts)
        if linear is not None and linear is not block.gate:
            _wrap_call(linear, _linear_call(now))
        _wrap_call(block.gate, _gate_call(block, now, is_linear=linear is block.gate))
    for module in block.shared:
        _wrap_call(module, _shared_call(now))


Call = Callable[..., Any]


def _wrap_call(module: Any, call: Call) -> None:
    """Make only this module answer by `call(own, module, …)`, where `own` is its own `__call__`."""
    kind = type(module)
    own = kind.__call__

    def __call__(self: Any, *args: Any, **named: Any) -> Any:
        return call(own, self, *args, **named)

    module.__class__ = type(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})


def _block_call(hooks: BlockHooks, block: MoeBlock, now: list[_Call]) -> Call:
    def call(own: Call, module: Any, *args: Any, **named: Any) -> Any:
        first = _Call()
        out = _during(now, first, own, module, *args, **named)
        if first.ids is None or block.layer in hooks.recorded:
            raise _unclear(block, "ran its experts not once")
        shape = tuple(first.own.shape)
        slots, width = shape[-2:]
        if shape[:-1] != tuple(first.ids.shape) or slots > width:
            raise _unclear(block, f"answers {shape} where it is asked for experts {first.ids.shape}")
        unit = mx.broadcast_to(mx.eye(slots, width, dtype=mx.float32), shape)
        again = _Call(answer=unit, quiet=True, gate=first.gate)
        factors = _during(now, again, own, module, *args, **named)
        if factors.shape[-1] != width:
            raise _unclear(block, "puts what its experts answer through another layer")
        weights = factors.astype(mx.float32).reshape(-1, width)[:, :slots]
        if hooks.checks is not None:
            noise, loud = _loud(first, out)
            noisy = _during(now, _Call(answer=noise, gate=first.gate), own, module, *args, **named)
            hooks.checks.append((block.layer, *_misfit(noise, weights, noisy, loud)))
        figures = _figures(first.own, weights, hooks.streams.pop(block.layer, None)) if hooks.wants_figures else ()
        hooks.recorded[block.layer] = BlockRouting(first.ids, weights, first.logits, *figures)
        return out

    return call


def _figures(answer: Any, weights: Any, stream: Any) -> tuple[Any, bool]:
    """Return the figures of one forward, not computed yet, and whether the residual stream is among them."""
    slots, width = answer.shape[-2:]
    outputs = answer.astype(mx.float32).reshape(-1, slots, width)
    there = stream is not None and stream.shape[-1] == width and stream.size * slots == outputs.size
    whole = (outputs * weights[..., None]).sum(axis=-2)
    beside = stream.astype(mx.float32).reshape(-1, width) if there else mx.zeros_like(whole)
    norm = mx.linalg.norm(outputs, axis=-1)
    cosines = [
        (outputs * other[:, None]).sum(-1) / mx.maximum(mx.linalg.norm(other, axis=-1)[:, None] * norm, TINY)
        for other in (whole, beside)
    ]
    return mx.stack([norm, mx.zeros_like(norm), mx.abs(outputs).max(-1), *cosines], axis=-1), there


def _loud(call: _Call, out: Any) -> tuple[Any, Any]:
    """Return random outputs that outweigh all else that the block adds, and the most that this may be."""
    most = mx.max(mx.abs(out.astype(mx.float32)))
    factor = LOUD.get(str(out.dtype), LOUD_ELSEWHERE) * (1 + most)
    return mx.random.normal(call.own.shape, dtype=mx.float32, key=mx.random.key(0)) * factor, 2 * most


def _misfit(noise: Any, weights: Any, noisy: Any, most: Any) -> tuple[Any, Any]:
    """Return the distance of the output from the weighted sum of the experts', and the largest distance allowed."""
    slots, width = noise.shape[-2:]
    wanted = (noise.reshape(-1, slots, width) * weights[..., None]).sum(axis=-2)
    error = mx.max(mx.abs(noisy.astype(mx.float32).reshape(-1, width) - wanted))
    return error, AGREES.get(str(noisy.dtype), AGREES_ELSEWHERE) * mx.max(mx.abs(wanted)) + most


def _during(now: list[_Call], call: _Call, own: Call, module: Any, *args: Any, **named: Any) -> Any:
    now[:] = [call]
    try:
        return own(module, *args, **named)
    finally:
        now.clear()


def _layer_call(hooks: BlockHooks, layer: int) -> Call:
    def call(own: Call, module: Any, *args: Any, **named: Any) -> Any:
        if hooks.wants_figures and args:
            hooks.streams[layer] = args[0]
        return own(module, *args, **named)

    return call


def _experts_call(block: MoeBlock, now: list[_Call]) -> Call:
    def call(own: Call, module: Any, x: Any, indices: Any, *rest: Any, **named: Any) -> Any:
        if not now:
            return own(module, x, indices, *rest, **named)
        going = now[0]
        if going.answer is not None:
            return going.answer
        if going.ids is not None:
            raise _unclear(block, "ran its experts twice")
        if isinstance(going.gate, tuple) and not any(indices is part for part in going.gate):
            raise _unclear(block, "changes what its router chose before the experts are run")
        answer = own(module, x, indices, *rest, **named)
        going.ids, going.own = indices, answer
        return answer

    return call


def _gate_call(block: MoeBlock, now: list[_Call], is_linear: bool) -> Call:
    with_logits = _recording_logits(type(block.gate).__call__, now)

    def call(_own: Call, module: Any, *args: Any, **named: Any) -> Any:
        if now and now[0].answer is not None:
            return now[0].gate
        if now and now[0].gate is not None:
            raise _unclear(block, "asked its router twice")
        answer = with_logits(module, *args, **named)
        if now:
            now[0].gate = answer
            if is_linear:
                now[0].logits = answer
        return answer

    return call


def _recording_logits(own: Call, now: list[_Call]) -> Call:
    """Return the gate's own code, in which the function that chooses experts also records its logits."""
    code = getattr(own, "__code__", None)
    name = next((name for name in getattr(code, "co_names", ()) if SELECT in name and name in own.__globals__), None)
    if name is None:
        return own
    select = own.__globals__[name]

    def record(logits: Any, *args: Any, **named: Any) -> Any:
        if now:
            now[0].logits = logits
        return select(logits, *args, **named)

    return FunctionType(own.__code__, own.__globals__ | {name: record}, own.__name__, own.__defaults__, own.__closure__)


def _linear_call(now: list[_Call]) -> Call:
    def call(own: Call, module: Any, *args: Any, **named: Any) -> Any:
        logits = own(module, *args, **named)
        if now:
            now[0].logits = logits
        return logits

    return call


def _shared_call(now: list[_Call]) -> Call:
    def call(own: Call, module: Any, *args: Any, **named: Any) -> Any:
        answer = own(module, *args, **named)
        return mx.zeros_like(answer) if now and now[0].quiet else answer

    return call


def _linear_of(gate: Any, num_experts: int) -> Any | None:
    """Find the linear layer that scores the experts: the gate itself, or the one in it."""
    found = [module for _, module in gate.named_modules() if isinstance(module, nn.Linear | nn.QuantizedLinear)]
    found = [module for module in found if module.weight.shape[0] == num_experts]
    return found[0] if len(found) == 1 else None


def _unclear(block: MoeBlock, why: str) -> CaptureError:
    return CaptureError(
        f"The MoE block of layer {block.layer} in this MLX model {why}, and moeviz cannot tell which routing is the "
        "layer's. Record it from the transformers checkpoint."
    )
