"""Hold what moeviz records of an architecture against a witness of what its experts received.

A tiny random model reads a few tokens, with routers that spread their choices and selection biases that change them.
Recording must not change a bit of the output, and the trace must be what the experts received, to the last bit. Then
the same with the routers run by our kernels, where the check that precedes every swap lets them.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.models.parameters import describe
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.fused import fused, recorded
from moeviz.capture.record.listen import Recording, listen
from moeviz.capture.record.loops import unrolled
from moeviz.capture.routers.declared import Router, find_routers, router_sites
from moeviz.capture.run.prompts import Batch, Run, decoder_start, nothing_written
from moeviz.capture.survey.tiny_models import text_model, tiny_config
from moeviz.capture.survey.witness import Testimony, block_factor, witnessed
from moeviz.embedded import embedded_path
from moeviz.errors import CaptureError
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

SEQUENCES, POSITIONS = 2, 16
SELECTION_BIAS = re.compile(r"(correction_bias|balancing_biases|expert_bias|router\.bias)$")
UNSEEN = "images"  # a site that no text reaches
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32 sums in another order


@dataclass(frozen=True, slots=True)
class Finding:
    """What the survey found of one site of an architecture."""

    architecture: str
    site: str
    routers: tuple[Router, ...]  # as they are in the model, and every class of them once
    trace: RoutingTrace
    trouble: str  # how the trace differs from what the experts received; "" where it does not
    kernels: str  # why our kernels do not run some of its routers; "" where they run all


def random_model(architecture: str) -> PreTrainedModel:
    """A tiny model whose routers spread their choices, with selection biases that change them."""
    torch.manual_seed(0)
    model = text_model(architecture)(tiny_config(architecture)).float().eval()
    if model.config.is_encoder_decoder:
        model.generation_config.decoder_start_token_id = 2
    routers = [router.module for site in router_sites(model) for router in find_routers(model, site)]
    with torch.no_grad():
        for values in model.parameters():
            if not values.isfinite().all():
                values.normal_(0, 0.02)
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if SELECTION_BIAS.search(name):
                values.normal_(0, 0.3)
            if name.endswith("tid2eid"):  # which experts a token id has
                values.random_(0, 8)
        for weight in (weight for router in routers for weight in router.parameters()):
            if weight.dim() == 2 and len(weight) > 1:
                weight.normal_(0, 0.3)
    return model


def some_tokens() -> Batch:
    """Two sequences without padding."""
    ids = torch.randint(3, 120, (SEQUENCES, POSITIONS), generator=torch.Generator().manual_seed(3))
    return Batch(ids, torch.ones_like(ids))


@torch.no_grad()
def read(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """One forward; the logits, or the last hidden states of a model without a head."""
    start = {}
    if model.config.is_encoder_decoder:
        start = {"decoder_input_ids": decoder_start(model, len(batch.input_ids)).input_ids}
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **start)
    return output.logits if getattr(output, "logits", None) is not None else output.last_hidden_state


def survey(architecture: str) -> list[Finding]:
    """What moeviz records of an architecture, site by site, held against the witness."""
    model = random_model(architecture)
    return [_finding(architecture, model, site) for site in router_sites(model) if site != UNSEEN]


def _finding(architecture: str, model: PreTrainedModel, site: str) -> Finding:
    batch = some_tokens()
    run = Run(model, tokenizer(), describe(model, architecture, site=site), batch)
    plain = read(model, batch)
    with witnessed(model) as testimony, listen(model, keep_logits=True, site=site) as recording:
        output = read(model, batch)
    trace = assemble(recording, run, nothing_written(batch))
    trouble = "" if torch.equal(plain, output) else "recording changes what the model computes"
    trouble = trouble or _untold(trace, recording, testimony) or _unscaled(model, recording.routers[0])
    kernels = _kernels(run, site, trace)
    return Finding(architecture, site, recording.routers, trace, trouble, kernels)


def _untold(trace: RoutingTrace, recording: Recording, testimony: Testimony) -> str:
    """How the trace differs from what the experts received; "" where it does not."""
    for layer, router in enumerate(unrolled(recording).routers):
        places = (*router.experts, router.block_path, router.path)
        calls = next((testimony[place] for place in places if testimony.get(place)), None)
        if not calls:
            return f"nothing was witnessed at {router.path}"
        for token, received in enumerate(calls.pop(0)):
            told = _told(trace, layer, token)
            if set(told) != set(received):
                return f"{router.path}, token {token}: recorded {sorted(told)}, received {sorted(received)}"
            factor = np.float32(router.factor)
            if any(weight is not None and np.float32(weight) * factor != told[e] for e, weight in received.items()):
                return f"{router.path}, token {token}: recorded weights {told}, received {received}"
    return ""


def _told(trace: RoutingTrace, layer: int, token: int) -> dict[int, np.float32]:
    pairs = zip(trace.experts[layer, token].tolist(), trace.weights[layer, token], strict=True)
    return {expert: weight for expert, weight in pairs if expert != NO_EXPERT and weight != 0}


def _unscaled(model: PreTrainedModel, router: Router) -> str:
    """Whether the block scales the sum of its experts otherwise than the trace has it."""
    factor = block_factor(model, lambda: read(model, some_tokens()))
    if factor is None or np.isclose(factor, router.factor, rtol=1e-3):
        return ""
    return f"the block multiplies its experts by {factor:.4g}, and the trace by {router.factor:.4g}"


def _kernels(run: Run, site: str, trace: RoutingTrace) -> str:
    """Why our kernels do not run some of the routers; "" where they run all, and then the trace must be the same."""
    try:
        with fused(run.model, run.batch.input_ids.numel(), site=site) as record:
            read(run.model, run.batch)
            got = assemble(recorded(record, keep_logits=True), run, nothing_written(run.batch))
    except CaptureError as error:
        return str(error)
    same = (np.sort(got.experts) == np.sort(trace.experts)).all() and np.allclose(got.weights, trace.weights, **CLOSE)
    if not same:
        raise CaptureError(f"{run.info.name}: our kernels decide otherwise than the routers, and were let to.")
    return "; ".join(dict.fromkeys(rows.probed.trouble for rows in record if rows.probed.trouble))


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Any tokenizer with as many tokens: texts are of no interest here."""
    return AutoTokenizer.from_pretrained(embedded_path())
