"""Run prompts through a model and record what every router decides: `trace` at the end, `stream` while it grows.

One implementation: a request becomes a job (what to run, and how), which one of `recorders.py` runs, and what the
routers were recorded to decide is assembled as a trace.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Literal

import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moeviz.capture.engines.engine import EngineModel, check_only_read, growing_trace, whole_trace
from moeviz.capture.interventions.intervention import Intervention
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.patching import unpatched
from moeviz.capture.opening import load_model
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.divided import OF_IMAGES, REMARK, is_divided
from moeviz.capture.record.expert_outputs import outputs_recorded
from moeviz.capture.record.hooks import Recording, exclusive
from moeviz.capture.record.joining import joined
from moeviz.capture.record.next_tokens import next_tokens_recorded
from moeviz.capture.record.witness import BY_ITSELF, checked, reads_others
from moeviz.capture.recorders import CaptureJob, KernelsUnavailable, record_with_hooks, record_with_kernels, why_hooks
from moeviz.capture.run.chat import Message, with_segments
from moeviz.capture.run.decoding import Decoding, HowToDecode, Sampling
from moeviz.capture.run.generation import (
    Progress,
    Throttle,
    Watch,
    autocast_of_caller,
    decode,
    generated_tokens,
    progress_watch,
)
from moeviz.capture.run.generation_plan import GenerationPlan, plan_for
from moeviz.capture.run.images import pictures_of
from moeviz.capture.run.prompts import ModelInput, no_generated_tokens, prepare
from moeviz.capture.run.request import CaptureRequest, Kernels, prompts_of
from moeviz.capture.together import shared_decoding
from moeviz.errors import CaptureError
from moeviz.routing_trace import NO_TOKEN_ID, RoutingTrace

log = logging.getLogger("moeviz.capture")
SoFar = Callable[[], Recording]
_NOT_WHOLE = (
    "The trace of {} is not of whole texts, or does not say which tokens they have, so it cannot be read again. Trace "
    "the text anew."
)
_ANOTHER_TEXT = "{} reads the tokens of the trace of {} as another text. Trace the text anew with this model."


def trace(
    model: LoadedModel | EngineModel | nn.Module | str,
    prompts: str | Sequence[str] | Sequence[Message],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int = 0,
    sampling: Sampling | None = None,
    decoding: HowToDecode | None = None,
    kernels: Kernels = "auto",
    intervention: Intervention | None = None,
    keep_logits: bool = True,
    site: str | None = None,
    chat: bool = False,
    system: str | None = None,
    next_tokens: bool | Literal["auto"] = False,
    outputs: bool = False,
    images: Sequence[object] = (),
    processor: "transformers.ProcessorMixin | None" = None,
    progress: Progress | None = None,
) -> RoutingTrace:
    """Run prompts through a model and record what every router decides, for prompt and generated tokens.

    model           what `load_model` returns; a name that it takes; or a transformers model, with its `tokenizer`. A
                    model in another engine (`EngineModel`) is read and nothing in it is changed: it takes prompts,
                    max_new_tokens, sampling, keep_logits, chat, system and progress.
    prompts         one text, or several: each becomes a sequence of the trace. They run as one padded batch. With chat,
                    a conversation too: messages with "role" and "content".
    max_new_tokens  tokens to generate after each prompt. The last one drawn is not in the trace, since it met no
                    router; neither is an end-of-sequence token, nor anything after it.
    sampling        how tokens are drawn (`Sampling`); default: the likeliest.
    decoding        how generation runs: beams, several sequences, drafts, caches (`Decoding`). These and `sampling` are
                    followed to the letter, whatever generation settings come with the checkpoint. "checkpoint" follows
                    those instead, as `model.generate()` does: only `sampling`'s seed counts then, and it draws what
                    `torch.manual_seed(seed)` would. `trace.model.decoding` says how it was.
    kernels         True runs the routers by moeviz's kernels, which write the record as they decide (Triton on a GPU,
                    plain torch elsewhere); False listens to the model's own. "auto": the kernels on a CUDA device
                    where they know every router of the model, listening elsewhere. `trace.model.recorded_by` says
                    which it was. In every run by kernels the first rows of each router are compared with its own
                    answer; where they differ, the run is made again by listening, with a warning.
    intervention    what routers are to decide otherwise (`Mute`, `Force`, `Bias`, `TopK`, `Swap`, `Replay`),
                    while generating too.
    keep_logits     False records ids and weights alone: 4·E bytes less per token and layer.
    site            which routers, in a model that has several kinds: "encoder" (the default) or "decoder",
                    "feed-forward" (the default) or "attention", "text" (the default) or "images".
    chat            True sends each text as a user's turn, written out by the tokenizer's chat template; the tokens that
                    the template adds are tokens of the prompt. Each token then has a `segment`, as system, user, think,
                    answer, tool call, or turn for what the template adds; none if the template does not show where a
                    part ends.
    system          with chat: the system prompt.
    next_tokens     True records the five likeliest tokens after each token too, and what they would be if the model
                    stopped at a layer (`NextTokens`), in the same forward: its head runs once for every token, and once
                    more for each MoE layer. Under an intervention, not for layers. "auto": where the model can, and for
                    layers on a GPU or where that is cheap.
    outputs         True records what each expert puts out for each token too, in figures (`ExpertOutputs`): the experts
                    run a second time, each token's one by one, and must add up to what they gave together. A GGUF or
                    MLX model shows them as it runs.
    images          of the one prompt, before its text: paths, bytes of files, or PIL images. `tokens` then has the
                    columns kind, image, view, x0, y0, x1 and y1, and `trace.images` each size. The number of tokens of
                    each is logged before the run. Their pixels are not kept.
    processor       what prepares images, for an open model of transformers; `load_model` opens the checkpoint's.
    progress        called with (tokens generated, tokens asked for) after the prompts are read and after each generated
                    token. Raise in it to stop.

    Raises
    ------
    InvalidPrompt: empty, too long for the model's context, or refused by the chat template. CaptureError: settings
    that cannot be, no chat template, a dense model, routing that did not come through, an intervention that the model
    cannot be given, or kernels that cannot record it. ModelNotFound: no such model.

    The tokens of a decoder beside an encoder are its start token and what it generates. A layer that runs several
    times in one forward is as many layers of the trace, and `layer_kind` says so.

    >>> import moeviz
    >>> trace = moeviz.trace(moeviz.load_model(), "Il fait froid.", max_new_tokens=2)
    >>> trace.experts.shape  # layers, tokens, slots
    (6, 8, 2)

    Source: expert ids and weights are the router module's own outputs, in the order (logits, weights, ids) that
    transformers' routers share; `router_adapters.py` has those that answer otherwise.
    """
    recorded = kernels, intervention, keep_logits, site, chat, system, next_tokens, outputs, None, pictures_of(images)
    request = _request(prompts, max_new_tokens, sampling, decoding, *recorded)
    return capture(model, request, tokenizer=tokenizer, processor=processor, progress=progress)


def stream(
    model: LoadedModel | EngineModel | nn.Module | str,
    prompts: str | Sequence[str] | Sequence[Message],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    decoding: HowToDecode | None = None,
    kernels: Kernels = "auto",
    intervention: Intervention | None = None,
    keep_logits: bool = True,
    site: str | None = None,
    chat: bool = False,
    system: str | None = None,
    next_tokens: bool | Literal["auto"] = False,
    outputs: bool = False,
    images: Sequence[object] = (),
    processor: "transformers.ProcessorMixin | None" = None,
    seconds_between: float = 0.0,
) -> Iterator[RoutingTrace]:
    """Yield the growing trace: after the prompts are read, and after each generated token. Arguments as in `trace`.

        for trace in moeviz.stream(model, "Once upon a time", max_new_tokens=50):
            ...

    seconds_between  assemble the trace at most this often. In between the loop is given the one before, the very same
                     object, after each token: for a caller that looks only now and then.

    The last one is what `trace` returns. Generation waits while the loop works on a trace; the model is free meanwhile,
    unchanged, so other recordings of it may take their turn, and each of several streams gives what it gives alone. To
    cancel, leave the loop, or `close()` the generator: the model stops before its next token.

    Raises what `trace` raises, and `CaptureError` for beams: which of them win is known only at the end.

    >>> import moeviz
    >>> seen = [len(trace.tokens) for trace in moeviz.stream("embedded", "Il fait", max_new_tokens=3)]
    >>> seen == sorted(seen)
    True
    """
    recorded = kernels, intervention, keep_logits, site, chat, system, next_tokens, outputs, None, pictures_of(images)
    request = _request(prompts, max_new_tokens, sampling, decoding, *recorded)
    return capture_growing(model, request, tokenizer=tokenizer, processor=processor, seconds_between=seconds_between)


def capture(
    model: LoadedModel | EngineModel | nn.Module | str,
    request: CaptureRequest,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: "transformers.ProcessorMixin | None" = None,
    progress: Progress | None = None,
) -> RoutingTrace:
    """Do as `trace` does, by one request instead of its keywords. Arguments and errors as there."""
    model = load_model(model) if isinstance(model, str) else model
    if isinstance(model, EngineModel):
        check_only_read(model, request, tokenizer)
        return whole_trace(model, request, progress)
    run, plan = _prepare_run(model, request, tokenizer, processor)
    if len(run.batch.input_ids) > 1 and reads_others(run):
        return _one_by_one(model, run, request, tokenizer, progress)
    job = _plan_job(run, plan, request)
    watch = progress_watch(progress, request.max_new_tokens)
    with exclusive(job.run.model):
        return _record(job, lambda _so_far: watch)


def capture_growing(
    model: LoadedModel | EngineModel | nn.Module | str,
    request: CaptureRequest,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: "transformers.ProcessorMixin | None" = None,
    seconds_between: float = 0.0,
) -> Iterator[RoutingTrace]:
    """Do as `stream` does, by one request instead of its keywords. Arguments and errors as there."""
    if not isinstance(model, EngineModel):
        request.check_can_grow()
    model = load_model(model) if isinstance(model, str) else model
    if isinstance(model, EngineModel):
        check_only_read(model, request, tokenizer)
        return growing_trace(model, request, seconds_between)
    run, plan = _prepare_run(model, request, tokenizer, processor, growing=True)
    if len(run.batch.input_ids) > 1 and reads_others(run):
        raise CaptureError(
            f"{type(run.model).__name__} routes a text otherwise when it stands in a batch, so several texts cannot "
            "grow together. Stream one text at a time."
        )
    job = _plan_job(run, plan, request)
    shared = shared_decoding(job.run.model)
    if shared is not None and shared.takes(job):
        return shared.stream(job, seconds_between)
    return _growing(job, seconds_between)


def read_again(model: LoadedModel, trace: RoutingTrace, request: CaptureRequest) -> RoutingTrace:
    """Read the tokens of a trace once more, generated ones too, and record what every router decides.

    trace    whole texts, read by this model.
    request  how to read: interventions, kernels, site, next tokens. Its prompts and what it generates do not count.

    Raises `CaptureError` where the trace does not say which tokens it has, or the model reads them as another text; and
    what `trace` raises.
    """
    tokens = trace.tokens
    found = capture(model, again_request(trace, request))
    check_same_texts(found, trace)
    return replace(found, tokens=tokens, model=replace(found.model, decoding=trace.model.decoding))


def check_same_texts(found: RoutingTrace, trace: RoutingTrace) -> None:
    """Raise `CaptureError` where a model has read the ids of a trace's tokens as another text than it holds."""
    if not found.tokens["text"].equals(trace.tokens["text"]):
        raise CaptureError(_ANOTHER_TEXT.format(found.model.name, trace.model.name))


def again_request(trace: RoutingTrace, request: CaptureRequest) -> CaptureRequest:
    """Return a request to read the very tokens of a trace. Raises `CaptureError` where the trace does not say which."""
    tokens = trace.tokens
    if trace.images:
        raise CaptureError(
            f"The trace of {trace.model.name} has images, and a trace keeps no pixels, so it cannot be read again. "
            "Trace the text with its images anew."
        )
    whole = (tokens.groupby("sequence").cumcount() == tokens["position"]).all()
    if (tokens["token_id"] == NO_TOKEN_ID).any() or not tokens["sequence"].is_monotonic_increasing or not whole:
        raise CaptureError(_NOT_WHOLE.format(trace.model.name))
    rows = tuple(tuple(ids["token_id"].tolist()) for _, ids in tokens.groupby("sequence"))
    return replace(request, prompts=(), max_new_tokens=0, chat=False, system=None, token_ids=rows)


def _request(
    prompts: str | Sequence[str] | Sequence[Message],
    max_new_tokens: int,
    sampling: Sampling | None,
    decoding: HowToDecode | None,
    *rest: Any,
) -> CaptureRequest:
    """Put the keywords of `trace` into one value, and refuse wrong ones before a model is opened."""
    sampling = Sampling() if sampling is None else sampling
    return CaptureRequest(
        prompts_of(prompts), max_new_tokens, sampling, Decoding() if decoding is None else decoding, *rest
    )


def _prepare_run(
    model: LoadedModel | nn.Module,
    request: CaptureRequest,
    tokenizer: PreTrainedTokenizerBase | None,
    processor: "transformers.ProcessorMixin | None",
    growing: bool = False,
) -> tuple[ModelInput, GenerationPlan]:
    """Read the prompts, settle how to go on from them, and check the model if nobody has."""
    run = prepare(model, request, tokenizer, processor)
    plan = plan_for(run.model, request.max_new_tokens, request.sampling, request.decoding, growing)
    witness = checked(run)
    info = run.info
    if is_divided(run.batch):
        remark = REMARK.format(max(info.num_experts) - 1)
        info = replace(info, site=f"{info.site} and {OF_IMAGES}", caution=f"{info.caution} {remark}".strip())
    return replace(run, info=replace(info, decoding=plan.words, witness=witness)), plan


def _one_by_one(
    model: LoadedModel | nn.Module,
    run: ModelInput,
    request: CaptureRequest,
    tokenizer: PreTrainedTokenizerBase | None,
    progress: Progress | None,
) -> RoutingTrace:
    """Record each prompt by itself, in a model that routes a text otherwise when it stands in a batch."""
    why = BY_ITSELF.format(type(run.model).__name__)
    if request.intervention is not None:
        raise CaptureError(f"{why.partition(',')[0]}. Change the routing of one text at a time.")
    rows = [
        tuple(ids[kept == 1].tolist()) for ids, kept in zip(run.batch.input_ids, run.batch.attention_mask, strict=True)
    ]
    alone = (replace(request, prompts=(), chat=False, system=None, token_ids=(row,)) for row in rows)
    whole = joined([capture(model, each, tokenizer=tokenizer, progress=progress) for each in alone])
    whole = replace(whole, tokens=with_segments(whole.tokens, run.segments))
    return replace(whole, model=replace(whole.model, recorded_by=f"{whole.model.recorded_by} ({why})"))


def _plan_job(run: ModelInput, plan: GenerationPlan, request: CaptureRequest) -> CaptureJob:
    """Repeat the prompts as planned. Raises `CaptureError` for a plan that this many prompts cannot follow."""
    batch = run.batch.repeated(plan.decoding.copies)
    plan.decoding.check(run.model, len(batch.input_ids))
    return CaptureJob(replace(run, batch=batch), plan, request)


def _record(job: CaptureJob, watching: Callable[[SoFar], Watch | None]) -> RoutingTrace:
    """Run with kernels if they are wanted; if they decide differently from the routers, run again with hooks."""
    why = why_hooks(job)
    if why is None:
        try:
            return _run(job, watching)
        except KernelsUnavailable as reason:
            log.warning("%s The routers are listened to instead.", reason)
            why = str(reason)
    return _run(replace(job, request=replace(job.request, kernels=False), why_hooks=why), watching)


def _run(job: CaptureJob, watching: Callable[[SoFar], Watch | None]) -> RoutingTrace:
    way = record_with_kernels if job.request.kernels else record_with_hooks
    run = job.run
    outputs = outputs_recorded(run.model, job.request.site) if job.request.outputs else nullcontext()
    with way(job) as heard, next_tokens_recorded(run, job.request) as following, outputs as added:

        def so_far() -> Recording:
            return replace(heard(), following=following, added=added)

        made = decode(run.model, run.batch, job.plan, watching(so_far))
        return assemble(so_far(), run, made)


class _Cancelled(BaseException):
    """Nobody waits for the next trace."""


def _growing(job: CaptureJob, seconds_between: float) -> Iterator[RoutingTrace]:
    """Run the model in a thread of its own that takes turns with the caller; between turns others may use the model."""
    throttle = Throttle(seconds_between)
    made: SimpleQueue[RoutingTrace | BaseException | None] = SimpleQueue()
    nothing = no_generated_tokens(job.run.batch)
    turns, cancelled, autocast = threading.Semaphore(0), threading.Event(), autocast_of_caller()

    def watching(so_far: SoFar) -> Watch:
        def hand_over(generated: Tensor) -> None:
            def assembled() -> RoutingTrace:
                done = generated_tokens(job.run.model, generated, None, job.plan) if generated.numel() else nothing
                return assemble(so_far(), job.run, done)

            grown = throttle.latest(assembled)
            with unpatched():
                made.put(grown)
                wait_for_a_turn()

        return hand_over

    def wait_for_a_turn() -> None:
        turns.acquire()
        if cancelled.is_set():
            raise _Cancelled

    def work() -> None:
        try:
            wait_for_a_turn()
            with autocast():
                whole = _record(job, watching)
            if throttle.stale:
                made.put(whole)
                wait_for_a_turn()
            made.put(None)
        except BaseException as error:  # raised again where the traces are taken
            made.put(error)

    worker = threading.Thread(target=work, name="moeviz-stream", daemon=True)

    def stop() -> None:
        cancelled.set()
        turns.release()
        worker.join()

    worker.start()
    try:
        while (grown := _next(job, turns, made, stop)) is not None:
            yield grown
    finally:
        stop()


def _next(
    job: CaptureJob,
    turns: threading.Semaphore,
    made: SimpleQueue[RoutingTrace | BaseException | None],
    stop: Callable[[], None],
) -> RoutingTrace | None:
    """Give the model's thread a turn, with nobody else at the model; None after the last."""
    with exclusive(job.run.model):
        turns.release()
        try:
            grown: RoutingTrace | BaseException | None = made.get()
        except BaseException:  # an interrupt: nothing of ours may be on the model when others come to it
            stop()
            raise
    if isinstance(grown, BaseException):
        raise grown
    return grown
