"""Trace any transformers MoE, on any device, by listening to the routers that the model declares."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import signature

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from moeviz.capture.loops import LAYER_KIND, is_unrolled, unrolled
from moeviz.capture.models import LoadedModel
from moeviz.capture.prompts import Batch, Run, decoder_start, prepare, tokens_met
from moeviz.capture.recording import Recording, listen, pad
from moeviz.capture.score_function import score_function
from moeviz.capture.texts import token_texts
from moeviz.errors import CaptureError
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, sort_slots, token_frame

log = logging.getLogger("moeviz.capture")
ENDED = -1  # in place of a generated id: this row's sequence had ended
Progress = Callable[[int, int], None]  # (generated so far, to generate at most)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. The same seed, prompts and model give the same tokens."""

    temperature: float = 0.0  # 0 takes the likeliest token
    top_k: int | None = None  # draw among this many likeliest tokens only (of the vocabulary: not the router's top_k)
    top_p: float | None = None  # draw among the likeliest tokens that hold this much probability together
    seed: int = 0


def trace(
    model: LoadedModel | PreTrainedModel | str,
    prompts: str | Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int = 0,
    sampling: Sampling | None = None,
    keep_logits: bool = True,
    site: str | None = None,
    progress: Progress | None = None,
) -> RoutingTrace:
    """Run prompts through a model and record what every router decides, for prompt and generated tokens.

    model           a `LoadedModel`; a path or hub id; or a transformers model, with its `tokenizer`.
    prompts         one text, or several: each becomes a sequence of the trace. They run as one padded batch.
    max_new_tokens  tokens to generate after each prompt. The last one drawn is not in the trace, since it met no
                    router; neither is an end-of-sequence token, nor anything after it.
    keep_logits     False records ids and weights alone: 4·E bytes less per token and layer.
    site            which routers, in a model that has several kinds: "encoder" (the default) or "decoder",
                    "feed-forward" (the default) or "attention", "text" (the default) or "images".
    progress        called after the prompts are read and after each generated token. Raise in it to stop.

    Raises
    ------
    InvalidPrompt: empty, or too long for the model's context. CaptureError: a dense model, or routing that did not
    come through. ModelNotFound: no such model.

    The tokens of a decoder beside an encoder are its start token and what it generates. A layer that runs several
    times in one forward is as many layers of the trace, and `layer_kind` says so.

    Source: expert ids and weights are the router module's own outputs, in the order (logits, weights, ids) that
    transformers' routers share; `odd_routers.py` has those that answer otherwise.
    """
    run = prepare(model, prompts, tokenizer, max_new_tokens, site)
    with listen(run.model, keep_logits, site) as recording:
        generated = run_model(run.model, run.batch, max_new_tokens, sampling or Sampling(), progress)
    return assemble(recording, run, generated)


@torch.no_grad()
def run_model(
    model: PreTrainedModel, batch: Batch, max_new_tokens: int, sampling: Sampling, progress: Progress | None
) -> torch.Tensor:
    """Read the prompts and generate; returns the generated ids (B, N), ENDED where a row had ended already."""
    if max_new_tokens == 0:
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **_thrifty(model, batch))
        if progress is not None:
            progress(0, 0)
        return batch.input_ids[:, :0]
    if not model.can_generate():
        raise CaptureError(f"{type(model).__name__} generates no text. Trace its prompt alone, with max_new_tokens=0.")
    start = 1 if model.config.is_encoder_decoder else batch.input_ids.shape[1]
    with _seeded(sampling):
        sequences = model.generate(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=_generation_config(model, max_new_tokens, sampling),
            stopping_criteria=[] if progress is None else [_Report(progress, start, max_new_tokens)],
        )
    return _up_to_the_end(model, sequences[:, start:])


@contextmanager
def _seeded(sampling: Sampling) -> Iterator[None]:
    """Draw from the seed inside the block, and leave every random state as it was."""
    if sampling.temperature == 0:  # nothing is drawn
        yield
        return
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # the seed goes to every device
        torch.manual_seed(sampling.seed)
        yield


def _up_to_the_end(model: PreTrainedModel, generated: torch.Tensor) -> torch.Tensor:
    """Generated ids, ENDED from each row's end-of-sequence token on: what follows it is filler."""
    stop = model.generation_config.eos_token_id
    if stop is None:
        return generated
    is_stop = torch.isin(generated, torch.as_tensor(stop, device=generated.device))
    return generated.masked_fill(is_stop.cumsum(dim=1) > 0, ENDED)


def _thrifty(model: PreTrainedModel, batch: Batch) -> dict:
    """Arguments that a plain forward needs for padded prompts, and that spare it the logits of every token."""
    accepted = signature(model.forward).parameters
    wanted = {"position_ids": (batch.attention_mask.cumsum(-1) - 1).clamp(min=0), "logits_to_keep": 1}
    if model.config.is_encoder_decoder:
        wanted = {"decoder_input_ids": decoder_start(model, len(batch.input_ids)).input_ids}
    return {name: value for name, value in wanted.items() if name in accepted}


def _generation_config(model: PreTrainedModel, max_new_tokens: int, sampling: Sampling) -> GenerationConfig:
    """One plain sequence a prompt: a trace has no rows for beams, drafts or prompts read in pieces."""
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}
    if sampling.temperature == 0:  # generate() would take the checkpoint's own in place of None, and complain of them
        drawn = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
    stop = model.generation_config.eos_token_id
    first_stop = stop[0] if isinstance(stop, list) else stop
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sampling.temperature > 0,
        num_beams=1,
        num_return_sequences=1,
        use_cache=True,
        disable_compile=True,
        pad_token_id=0 if first_stop is None else first_stop,  # fills the rows that stop early
        eos_token_id=stop,
        **drawn,
    )


class _Report(StoppingCriteria):
    """Tells `progress` of each generated token; never stops by itself."""

    def __init__(self, progress: Progress, start: int, total: int) -> None:
        self.progress, self.start, self.total = progress, start, total

    def __call__(self, input_ids: torch.Tensor, scores: object, **_kwargs: object) -> torch.Tensor:
        self.progress(input_ids.shape[1] - self.start, self.total)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def assemble(recording: Recording, run: Run, generated: torch.Tensor) -> RoutingTrace:
    """Arrange what was heard as the arrays of a trace: real tokens only, one sequence after the other."""
    recording = unrolled(recording)
    recording.check()
    prompt, generated = tokens_met(run, recording.site, generated)
    ids, kept = _routed_tokens(prompt, generated, recording)
    experts = pad([part[kept] for part in recording.stacked("experts")], NO_EXPERT)
    weights = pad([part[kept] for part in recording.stacked("weights")], 0.0)
    experts, weights = sort_slots(experts, weights)
    logits = None
    if recording.keep_logits and all(heard.logits for heard in recording.heard):
        logits = pad([part[kept] for part in recording.stacked("logits")], -np.inf)
    sequence, column = np.nonzero(kept)
    texts = [text for row in range(len(ids)) for text in token_texts(run.tokenizer, ids[row][kept[row]].tolist())]
    tokens = token_frame(
        sequence=sequence,
        position=(np.cumsum(kept, axis=1) - 1)[kept],
        text=texts,
        token_id=ids[kept],
        phase=np.where(column < prompt.input_ids.shape[1], "prompt", "generated"),
    )
    return RoutingTrace(_facts(recording, run.info, experts.shape[-1]), tokens, experts, weights, logits)


def _facts(recording: Recording, info: ModelInfo, slots: int) -> ModelInfo:
    """What the recording tells of the model, beside what was known of it before it ran."""
    heard = {
        "top_k": slots,
        "num_experts": tuple(heard.num_experts for heard in recording.heard),
        "score_function": score_function(recording.logit_samples()),
        "caution": " ".join(sorted({router.odd.caution for router in recording.routers if router.odd} - {""})),
    }
    if heard["caution"]:
        log.warning("%s", heard["caution"])
    if is_unrolled(recording.routers):  # the parameters of a layer would count once a pass
        layers = tuple(router.layer for router in recording.routers)
        heard |= {"layers": layers, "layer_kind": LAYER_KIND, "num_layers": None, "parameters": None}
    return replace(info, **heard)


def _routed_tokens(batch: Batch, generated: torch.Tensor, recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """The ids (B, S) of all tokens that the model read, and which of them (B, S) belong to a sequence of the trace."""
    prompt, mask, new = (part.cpu().numpy() for part in (batch.input_ids, batch.attention_mask, generated))
    fed = new[:, :-1]  # the last one drawn was never read
    steps = [(len(prompt), prompt.shape[1])] + [(len(prompt), 1)] * fed.shape[1]
    if recording.forwards != steps:
        raise CaptureError(
            f"The model read its tokens in steps of {[s for _, s in recording.forwards][:8]}, not as one prompt and "
            "then one token at a time; moeviz cannot tell which routing belongs to which token."
        )
    return np.concatenate([prompt, fed], axis=1), np.concatenate([mask == 1, fed != ENDED], axis=1)
