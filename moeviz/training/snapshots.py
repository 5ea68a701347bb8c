"""The probe set: labelled texts that are traced again and again while a model trains."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

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
    """A trace of the probe texts, by their labels, by the model as it is now: expert ids alone."""
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
