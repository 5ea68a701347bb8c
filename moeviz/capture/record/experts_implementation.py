"""Our implementation of experts in transformers' registry: `model.set_experts_implementation("moeviz")`.

On a CPU a decode step reads each chosen expert in place; more tokens are sorted by expert first. transformers' own
implementations are slower there: its loop searches each expert's tokens anew, and batched_mm copies an expert's weights
for every token. On CUDA experts of the usual layout run in our kernels if these support their dtype and GPU, and others
in transformers' grouped_mm.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from transformers.activations import SiLUActivation

from moeviz.capture.record import private_names, routing_ops

NAME = "moeviz"
FEW_TOKENS = 2  # up to here the loop over assignments beats sorting them (thread time on the embedded model)


def experts_forward(self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Sum over a token's experts of weight * expert(token), (T, D): what transformers' own experts return."""
    if hidden_states.is_cuda and not why_not_in_kernels(self):
        in_graph = torch.compiler.is_compiling()
        run = torch.ops.moeviz.experts if in_graph else routing_ops.run_in_kernels
        return run(hidden_states, self.gate_up_proj, self.down_proj, top_k_index, top_k_weights)
    if hidden_states.is_cuda or torch.compiler.is_compiling() or private_names.is_expert_parallel(self):
        return private_names.experts_implementation("grouped_mm")(self, hidden_states, top_k_index, top_k_weights)
    few = len(hidden_states) <= FEW_TOKENS
    return (_one_by_one if few else _sort_by_expert)(self, hidden_states, top_k_index, top_k_weights)


def why_not_in_kernels(experts: nn.Module) -> str:
    """Return why these experts, on CUDA, do not run in our kernels, as a clause; "" if they do."""
    if not is_usual(experts):
        return f"{type(experts).__name__} has a layout that moeviz's kernels do not run"
    from moe_kernels.tiles import device_of, why_not_experts  # Triton is not there on every system

    weights = experts.gate_up_proj
    return why_not_experts(weights.dtype, device_of(weights.device.index))


def is_usual(experts: nn.Module) -> bool:
    """True for SwiGLU experts with gate and up in one matrix, no biases and nothing behind, as our kernels are."""
    plain = not (experts.has_bias or experts.is_transposed or experts.has_post_expert_norm)
    one = not private_names.has_own_gate(experts) and not private_names.is_expert_parallel(experts)
    # Experts with a gate of their own may have no act_fn, so it is asked for last.
    if not (plain and one and experts.has_gate and experts.is_concatenated):
        return False
    return experts.act_fn is silu or isinstance(experts.act_fn, nn.SiLU | SiLUActivation)


def _one_by_one(experts: nn.Module, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    out, run = [], _runner(experts)
    for chosen, row, factors in zip(ids.tolist(), hidden.split(1), weights.split(1), strict=True):
        done = torch.cat([run(expert, row) for expert in chosen])
        out.append((factors @ done.to(factors.dtype)).to(hidden.dtype))
    return out[0] if len(out) == 1 else torch.cat(out)


def _sort_by_expert(experts: nn.Module, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    (tokens, top_k), flat = ids.shape, ids.flatten()
    order = flat.argsort(stable=True)
    parts = hidden.index_select(0, order // top_k).split(flat.bincount(minlength=experts.num_experts).tolist())
    run = _runner(experts)
    done = torch.cat([run(expert, part) for expert, part in enumerate(parts) if len(part)])
    by_slot = done.index_select(0, order.argsort()).view(tokens, top_k, -1)
    return torch.bmm(weights.unsqueeze(1), by_slot.to(weights.dtype)).squeeze(1).to(done.dtype)


def _runner(experts: nn.Module) -> Callable[[int, Tensor], Tensor]:
    """Return a function of an expert's id and its rows. Attribute look-ups of modules cost as much as products."""
    if not is_usual(experts):
        return partial(_expert, experts)
    gate_up, down = experts.gate_up_proj, experts.down_proj

    def run(index: int, rows: Tensor) -> Tensor:
        gate, up = linear(rows, gate_up[index]).chunk(2, dim=-1)
        return linear(silu(gate) * up, down[index])

    return run


def _expert(experts: nn.Module, index: int, rows: Tensor) -> Tensor:
    """Run one expert on rows (n, D), in any of the layouts that transformers' experts have."""
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    inner = _linear(experts, first, index, rows)
    inner = private_names.apply_gate(experts)(inner) if experts.has_gate else experts.act_fn(inner)
    out = _linear(experts, "down_proj", index, inner)
    return experts.post_expert_norm(out) if experts.has_post_expert_norm else out


def _linear(experts: nn.Module, name: str, index: int, rows: Tensor) -> Tensor:
    weight = getattr(experts, name)[index]
    bias = getattr(experts, f"{name}_bias")[index] if experts.has_bias else None
    return linear(rows, weight.T if experts.is_transposed else weight, bias)


private_names.register_experts(NAME, experts_forward)
