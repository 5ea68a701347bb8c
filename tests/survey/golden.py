"""Golden routing of a tiny random model: what each engine must choose for its tokens, as its experts receive it."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from moeviz.capture.models.parameters import describe
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.hooks import listen
from moeviz.capture.record.witness import witnessed
from moeviz.capture.routers.discovery import router_sites
from moeviz.capture.run.prompts import Batch, ModelInput, no_generated_tokens
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace
from survey.architectures import difference_from_oracle
from survey.tiny_models import UNSEEN, random_model, read, tokenizer

SEQUENCES, POSITIONS = 4, 24


def write_golden(architecture: str, folder: Path) -> RoutingTrace:
    """Save a tiny random model in a folder, and return its routing of drawn tokens as its experts received it.

    Raises `CaptureError` if what is recorded differs from what the experts received.
    """
    model = random_model(architecture)
    ids = torch.randint(3, 120, (SEQUENCES, POSITIONS), generator=torch.Generator().manual_seed(3))
    trace = golden_routing(model, tokenizer(), ids, architecture)
    model.save_pretrained(folder, safe_serialization=True)
    return trace


def golden_routing(model: PreTrainedModel, vocabulary: Any, ids: torch.Tensor, name: str) -> RoutingTrace:
    """Return the routing of token ids (sequences, positions) as a model's experts received it."""
    (site, *_) = [site for site in router_sites(model) if site != UNSEEN]
    batch = Batch(ids, torch.ones_like(ids))
    run = ModelInput(model, vocabulary, describe(model, f"tiny random {name}", site=site), batch)
    with witnessed(model) as testimony, listen(model, keep_logits=True, site=site) as recording:
        read(model, batch)
    trace = assemble(recording, run, no_generated_tokens(batch))
    if trouble := difference_from_oracle(trace, recording, testimony):
        raise CaptureError(f"{name} is not recorded as its experts receive it: {trouble}. Choose another.")
    return trace
