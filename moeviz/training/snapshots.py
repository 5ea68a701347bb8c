"""Snapshots of a model while it trains: traces of the probe set, and numbers of its routers that a checkpoint keeps.

transformers' Trainer does not load routers and experts that a checkpoint names otherwise than the model does, as for
Mixtral and others whose experts are saved one by one (huggingface/transformers, issue 48805): a run that goes on
notices it by these numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.parameters import describe
from moeviz.capture.models.patching import eval_mode
from moeviz.routing_trace import RoutingTrace


def snapshot_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probe: Sequence[tuple[str, str]], name: str, step: int
) -> RoutingTrace:
    """Return a trace of the probe texts, by their labels, by the model as it is now: only expert ids."""
    with untouched(model):
        info = replace(describe(model, name, f"step {step}"), parameters=None)
        return replace(trace_corpus(LoadedModel(model, tokenizer, info), probe), weights=None)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in evaluation; then modes, random state and autocast are as they were."""
    device = next(model.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        eval_mode(model),
    ):
        yield


EACH = 8  # numbers of a tensor by which it is known again
SAME = 0.01  # of their root mean square: what rounding to bfloat16 changes is less


def sample_of(places: Sequence[nn.Module]) -> list[list[float]]:
    """Some numbers of each router's parameters, in float32. None of parameters that lie in parts on several ranks."""
    return [[value for part in place.parameters() for value in _some(part)] for place in places]


def routers_differ(kept: Sequence[Sequence[float]], now: Sequence[Sequence[float]]) -> list[int]:
    """Find the routers whose numbers differ from a checkpoint's. What cannot be compared is not judged."""
    return [at for at, (old, new) in enumerate(zip(kept, now, strict=False)) if _differ(np.array(old), np.array(new))]


def _some(part: torch.Tensor) -> list[float]:
    if hasattr(part, "full_tensor") or not part.numel():
        return []
    flat = part.detach().flatten()
    return flat[:: max(len(flat) // EACH, 1)][:EACH].float().tolist()


def _differ(old: np.ndarray, new: np.ndarray) -> bool:
    return (
        old.shape == new.shape and bool((abs(old - new) > SAME * np.sqrt((old**2).mean())).any()) if len(old) else False
    )
