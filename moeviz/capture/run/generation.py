"""Run a model: read the prompts and generate as planned; and record which row read which token.

R returned sequences, N generated tokens, V tokens of the vocabulary. Two helpers of `stream` are here too: how often a
growing trace is assembled, and autocast for the thread that runs the model.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel, StoppingCriteria

from moeviz.capture.run.decoding import SeededMultinomial, sampling_processors
from moeviz.capture.run.generation_plan import GenerationPlan
from moeviz.capture.run.prompts import Batch, GeneratedTokens, decoder_start, no_generated_tokens
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace

ENDED = -1  # instead of a generated id: this row's sequence had ended
Watch = Callable[[Tensor], None]  # gets the ids (R, N) generated so far
Progress = Callable[[int, int], None]  # gets how many tokens are generated, and how many were asked for


def expected_rows(batch: Batch, plan: GenerationPlan) -> int:
    """Return the largest number of rows that a router can be given, padding and dropped ones included."""
    rows, width = batch.input_ids.shape
    decoding = plan.decoding
    drafted = max(decoding.prompt_lookup_num_tokens or 0, 20 * (decoding.assistant_model is not None))
    return decoding.num_beams * rows * (width + plan.max_new_tokens * (1 + drafted))


@torch.no_grad()
def decode(model: PreTrainedModel, batch: Batch, plan: GenerationPlan, watch: Watch | None = None) -> GeneratedTokens:
    """Read the prompts and generate. `watch` is called after the prompts and after each generated token."""
    if plan.config is None:
        read_once(model, batch)
        if watch is not None:
            watch(batch.input_ids[:, :0])
        return no_generated_tokens(batch)
    plan.decoding.check(model, len(batch.input_ids))
    start = 1 if model.config.is_encoder_decoder else batch.input_ids.shape[1]
    watching = [] if watch is None else [_Watched(watch, start)]
    output = _generate(model, batch, plan, watching)
    return generated_tokens(model, output.sequences[:, start:], getattr(output, "beam_indices", None), plan)


@torch.no_grad()
def read_once(model: PreTrainedModel, batch: Batch) -> None:
    """Read the prompts in one forward."""
    given = {**_thrifty(model, batch), **batch.tensors}
    with _returning(model):
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **given)


@contextmanager
def _returning(model: PreTrainedModel) -> Iterator[None]:
    """Say in a sentence that transformers cannot run a class: Llama 4's asks its decoder for images that it lacks."""
    try:
        yield
    except AttributeError as error:
        if error.name != "image_outputs":
            raise
        raise CaptureError(
            f"This version of transformers cannot run {type(model).__name__}: its decoder does not return the "
            "`image_outputs` that it asks for. Give its language_model, which reads text, or use another version."
        ) from error


def _generate(model: PreTrainedModel, batch: Batch, plan: GenerationPlan, watching: list["_Watched"]) -> Any:
    """Generate with transformers. What it refuses becomes a `CaptureError`; what a watcher raises passes as it is."""
    own = plan.of_checkpoint
    try:
        with _returning(model), SeededMultinomial(int(plan.sampling.seed)) if own else nullcontext():
            return cast(GenerationMixin, model).generate(
                batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=plan.config,
                logits_processor=None if own else sampling_processors(plan.sampling),
                stopping_criteria=watching,
                assistant_model=plan.decoding.assistant_model,
                **batch.tensors,
            )
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, IndexError, ImportError, RuntimeError) as error:
        if any(watched.raised is error for watched in watching) or not (own or isinstance(error, ValueError)):
            raise
        how = "as this checkpoint's own settings say" if own else f"like this with {type(model).__name__}"
        raise CaptureError(f"transformers cannot generate {how}: {error}") from error


def generated_tokens(
    model: PreTrainedModel, ids: Tensor, beams: Tensor | None, plan: GenerationPlan
) -> GeneratedTokens:
    """Return generated ids (R, N), with ENDED for what follows an end, and the rows that they were drawn in."""
    rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids) if beams is None else beams
    return GeneratedTokens(_up_to_the_end(model, ids), rows, plan.decoding.drafts, plan.max_new_tokens)


def _up_to_the_end(model: PreTrainedModel, generated: Tensor) -> Tensor:
    """Replace generated ids by ENDED from each row's end-of-sequence token on: what follows it is filler."""
    stop = model.generation_config.eos_token_id
    if stop is None:
        return generated
    is_stop = torch.isin(generated, torch.as_tensor(stop, device=generated.device))
    return generated.masked_fill(is_stop.cumsum(dim=1) > 0, ENDED)


def _thrifty(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Return the arguments that a forward needs for padded prompts and to leave out the logits of most tokens."""
    accepted = signature(model.forward).parameters
    wanted = {"position_ids": (batch.attention_mask.cumsum(-1) - 1).clamp(min=0), "logits_to_keep": 1}
    if batch.tensors:  # positions in images are more than numbers of tokens: the model counts them
        del wanted["position_ids"]
    if model.config.is_encoder_decoder:
        wanted = {"decoder_input_ids": decoder_start(model, len(batch.input_ids)).input_ids}
    return {name: value for name, value in wanted.items() if name in accepted}


class _Watched(StoppingCriteria):
    """Call `watch` with what is generated so far; never stop by itself."""

    def __init__(self, watch: Watch, start: int) -> None:
        self.watch, self.start = watch, start
        self.raised: Exception | None = None

    def __call__(self, input_ids: Tensor, scores: object, **_kwargs: object) -> Tensor:
        try:
            self.watch(input_ids[:, self.start :])
        except Exception as error:
            self.raised = error
            raise
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def progress_watch(progress: Progress | None, max_new_tokens: int) -> Watch | None:
    """Return a watch that passes the number of tokens to `progress`."""
    return None if progress is None else lambda generated: progress(generated.shape[1], max_new_tokens)


PAUSE = 5  # times the time that a trace needed: the pause before the next, if there are other streams


@dataclass(slots=True)
class Throttle:
    """The trace so far, made at most once in this many seconds, and the same one again in between.

    With other streams it is made less often, so that the traces of all together need a fifth of the time.
    """

    seconds: float
    stale: bool = False  # whether the model has gone on since the last was made
    _last: RoutingTrace | None = None
    _made_at: float = 0.0
    _took: float = 0.0

    def latest(self, make: Callable[[], RoutingTrace], streams: int = 1) -> RoutingTrace:
        """Return the latest trace: a new one if it is time, by the number of all streams."""
        now = time.monotonic()
        pause = max(self.seconds, PAUSE * self._took * streams if streams > 1 else 0.0)
        self.stale = self._last is not None and now < self._made_at + pause
        if self._last is None or not self.stale:
            self._last, self._made_at = make(), time.monotonic()
            self._took = self._made_at - now
        return self._last


DEVICES = ("cpu", "cuda")


def autocast_of_caller() -> Callable[[], AbstractContextManager[None]]:
    """Return a block, for another thread to enter, in which autocast is as in this thread now."""
    on = {device: torch.get_autocast_dtype(device) for device in DEVICES if torch.is_autocast_enabled(device)}

    @contextmanager
    def same() -> Iterator[None]:
        with ExitStack() as stack:
            for device, dtype in on.items():
                stack.enter_context(torch.autocast(device, dtype))
            yield

    return same
