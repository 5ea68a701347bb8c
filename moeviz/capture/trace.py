"""Trace any transformers MoE, on any device, by listening to the routers that the model declares."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase

from moeviz.capture.change.apply import intervening, ready
from moeviz.capture.change.kinds import Intervention
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.listen import listen
from moeviz.capture.run.decoding import Decoding, Progress, Sampling, counted, decode
from moeviz.capture.run.prompts import prepare
from moeviz.routing_trace import RoutingTrace


def trace(
    model: LoadedModel | nn.Module | str,
    prompts: str | Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int = 0,
    sampling: Sampling | None = None,
    decoding: Decoding | None = None,
    keep_logits: bool = True,
    site: str | None = None,
    intervention: Intervention | None = None,
    progress: Progress | None = None,
) -> RoutingTrace:
    """Run prompts through a model and record what every router decides, for prompt and generated tokens.

    model           a `LoadedModel`; a path or hub id; or a transformers model, with its `tokenizer`.
    prompts         one text, or several: each becomes a sequence of the trace. They run as one padded batch.
    max_new_tokens  tokens to generate after each prompt. The last one drawn is not in the trace, since it met no
                    router; neither is an end-of-sequence token, nor anything after it.
    sampling        how tokens are drawn (`run.decoding.Sampling`); default: the likeliest.
    decoding        how generation runs: beams, several sequences, drafts, caches (`run.decoding.Decoding`).
    keep_logits     False records ids and weights alone: 4·E bytes less per token and layer.
    site            which routers, in a model that has several kinds: "encoder" (the default) or "decoder",
                    "feed-forward" (the default) or "attention", "text" (the default) or "images".
    intervention    what routers are to decide otherwise (`moeviz.capture.change.kinds`), while generating too.
    progress        called after the prompts are read and after each generated token. Raise in it to stop.

    Raises
    ------
    InvalidPrompt: empty, or too long for the model's context. CaptureError: a dense model, routing that did not come
    through, or an intervention that the model cannot be given. ModelNotFound: no such model.

    The tokens of a decoder beside an encoder are its start token and what it generates. A layer that runs several
    times in one forward is as many layers of the trace, and `layer_kind` says so.

    Source: expert ids and weights are the router module's own outputs, in the order (logits, weights, ids) that
    transformers' routers share; `odd_routers.py` has those that answer otherwise.
    """
    sampling, decoding, watch = sampling or Sampling(), decoding or Decoding(), counted(progress, max_new_tokens)
    run = prepare(model, prompts, tokenizer, max_new_tokens, site, decoding.copies)
    swaps = () if intervention is None else ready(run, site)
    with listen(run.model, keep_logits, site) as recording, intervening(run, swaps, intervention, max_new_tokens):
        written = decode(run.model, run.batch, max_new_tokens, sampling, decoding, watch)
    return assemble(recording, run, written)
