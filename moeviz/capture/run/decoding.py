"""Run a model: read the prompts and generate, in any of transformers' ways; and tell which row read which token.

R returned sequences, N generated tokens, V tokens of the vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from moeviz.capture.run.prompts import Batch, Written, decoder_start, nothing_written
from moeviz.errors import CaptureError

ENDED = -1  # in place of a generated id: this row's sequence had ended
Watch = Callable[[Tensor], None]  # gets the ids (R, N) generated so far
Progress = Callable[[int, int], None]  # gets how many tokens are generated, and how many were asked for


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. The same seed, prompts and model give the same tokens."""

    temperature: float = 0.0  # 0 takes the likeliest token
    top_k: int | None = None  # draw among this many likeliest tokens only (of the vocabulary: not the router's top_k)
    top_p: float | None = None  # draw among the likeliest tokens that hold this much probability together
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Decoding:
    """How generation runs, by the names of transformers' `GenerationConfig`. As it is: one plain sequence a prompt.

    Whatever is chosen, a trace has the tokens of the sequences that are returned, each once, with the routing that they
    met when they were read: dropped beams and rejected drafts are left out.
    """

    num_beams: int = 1  # beam search over so many; the rows that the winners were read in make the trace
    num_return_sequences: int = 1  # so many sequences of the trace for each prompt, one after the other
    cache_implementation: str | None = None  # "static" and others; None: a cache that grows
    prefill_chunk_size: int | None = None  # read the prompt in pieces of so many tokens
    prompt_lookup_num_tokens: int | None = None  # draft so many tokens from the prompt, and check them at once
    assistant_model: PreTrainedModel | None = None  # a small model that drafts; its own routers are not recorded

    @property
    def drafts(self) -> bool:
        """True where tokens are read before it is known whether they stay."""
        return self.prompt_lookup_num_tokens is not None or self.assistant_model is not None

    @property
    def copies(self) -> int:
        """How often each prompt is read: once, or for every sequence that is drawn. Beams share theirs."""
        return self.num_return_sequences if self.num_beams == 1 else 1

    def check(self, model: PreTrainedModel, rows: int, sampling: Sampling, growing: bool = False) -> None:
        """Raise `CaptureError` for what cannot go together; or cannot be watched while it grows."""
        if growing and self.num_beams > 1:
            raise CaptureError("Which beams win is known at the end alone: stream one beam, or trace without stream.")
        if self.drafts and (rows, self.num_beams) != (1, 1):
            raise CaptureError("Drafts are checked for one sequence at a time; give one prompt, and no beams.")
        if self.assistant_model is model:
            raise CaptureError("A model cannot draft for itself here: its drafts would stand in the trace.")
        if self.num_beams > 1 and sampling.temperature > 0:
            raise CaptureError("Beam search takes the likeliest tokens: give temperature 0, or one beam to draw.")
        if self.num_beams == 1 and self.num_return_sequences > 1 and sampling.temperature == 0:
            raise CaptureError("The likeliest tokens are the same every time: give a temperature, or beams.")
        if 1 < self.num_beams < self.num_return_sequences:
            raise CaptureError(f"{self.num_beams} beams cannot give {self.num_return_sequences} sequences.")


def expected_rows(batch: Batch, max_new_tokens: int, decoding: Decoding) -> int:
    """The most rows that a router can be given, padding and dropped ones included."""
    rows, width = batch.input_ids.shape
    drafted = max(decoding.prompt_lookup_num_tokens or 0, 20 * (decoding.assistant_model is not None))
    return decoding.num_beams * rows * (width + max_new_tokens * (1 + drafted))


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    batch: Batch,
    max_new_tokens: int,
    sampling: Sampling,
    decoding: Decoding,
    watch: Watch | None = None,
) -> Written:
    """Read the prompts and generate. `watch` is called after the prompts and after each generated token."""
    if max_new_tokens == 0:
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **_thrifty(model, batch))
        if watch is not None:
            watch(batch.input_ids[:, :0])
        return nothing_written(batch)
    if not model.can_generate():
        raise CaptureError(f"{type(model).__name__} generates no text. Trace its prompt alone, with max_new_tokens=0.")
    decoding.check(model, len(batch.input_ids), sampling)
    start = 1 if model.config.is_encoder_decoder else batch.input_ids.shape[1]
    try:
        output = cast(GenerationMixin, model).generate(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=_generation_config(model, max_new_tokens, decoding),
            logits_processor=_drawing(sampling),
            stopping_criteria=[] if watch is None else [_Watched(watch, start)],
            assistant_model=decoding.assistant_model,
        )
    except ValueError as error:
        if decoding == Decoding():
            raise
        raise CaptureError(f"transformers does not generate so with {type(model).__name__}: {error}") from error
    return written(model, output.sequences[:, start:], getattr(output, "beam_indices", None), decoding.drafts)


def written(model: PreTrainedModel, ids: Tensor, beams: Tensor | None, drafts: bool) -> Written:
    """Generated ids (R, N), with ENDED in place of what follows an end, and the rows that they were drawn in."""
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids) if beams is None else beams
    return Written(_up_to_the_end(model, ids), rows, drafts)


def _up_to_the_end(model: PreTrainedModel, generated: Tensor) -> Tensor:
    """Generated ids, ENDED from each row's end-of-sequence token on: what follows it is filler."""
    stop = model.generation_config.eos_token_id
    if stop is None:
        return generated
    is_stop = torch.isin(generated, torch.as_tensor(stop, device=generated.device))
    return generated.masked_fill(is_stop.cumsum(dim=1) > 0, ENDED)


def _thrifty(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Arguments that a plain forward needs for padded prompts, and that spare it the logits of every token."""
    accepted = signature(model.forward).parameters
    wanted = {"position_ids": (batch.attention_mask.cumsum(-1) - 1).clamp(min=0), "logits_to_keep": 1}
    if model.config.is_encoder_decoder:
        wanted = {"decoder_input_ids": decoder_start(model, len(batch.input_ids)).input_ids}
    return {name: value for name, value in wanted.items() if name in accepted}


def _generation_config(model: PreTrainedModel, max_new_tokens: int, decoding: Decoding) -> GenerationConfig:
    """As `decoding` says, whatever the checkpoint likes best. Tokens are drawn by `_drawing`."""
    stop = model.generation_config.eos_token_id
    first_stop = stop[0] if isinstance(stop, list) else stop
    ways = {field.name: getattr(decoding, field.name) for field in fields(decoding) if field.name != "assistant_model"}
    ways["num_return_sequences"] //= decoding.copies
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=1.0,  # generate() would take the checkpoint's own in place of None, and complain of them
        top_k=50,
        top_p=1.0,
        use_cache=True,
        disable_compile=True,
        return_dict_in_generate=True,
        pad_token_id=0 if first_stop is None else first_stop,  # fills the rows that stop early
        eos_token_id=stop,
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
        **ways,
    )


def _drawing(sampling: Sampling) -> LogitsProcessorList:
    """What makes the largest logit the token to take: nothing where that is the likeliest."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p:
        steps.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList([*steps, _Draw(sampling.seed)])


class _Draw(LogitsProcessor):
    """Adds Gumbel noise, so that the largest is a draw by the probabilities (the Gumbel-max trick).

    The noise comes from a generator of its own, on the CPU: what others draw meanwhile, and the device, do not matter.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.empty(scores.shape).exponential_(generator=self.generator).log_().neg_()
        return scores + noise.to(scores.device)


class _Watched(StoppingCriteria):
    """Tells `watch` what is generated so far; never stops by itself."""

    def __init__(self, watch: Watch, start: int) -> None:
        self.watch, self.start = watch, start

    def __call__(self, input_ids: Tensor, scores: object, **_kwargs: object) -> Tensor:
        self.watch(input_ids[:, self.start :])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def counted(progress: Progress | None, max_new_tokens: int) -> Watch | None:
    """Tells `progress` how many tokens there are."""
    return None if progress is None else lambda generated: progress(generated.shape[1], max_new_tokens)
