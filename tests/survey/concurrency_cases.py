"""Traces in whose course something else goes on: other threads, hooks of the user's own, a second trace.

Nothing here is a matter of luck: what disturbs is started by a hook in the middle of a forward, and has ended
before the forward goes on.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from moeviz.capture.routers.declared import Router, find_routers
from moeviz.capture.run.prompts import Batch
from moeviz.capture.trace import trace
from moeviz.errors import MoevizError
from moeviz.routing_trace import RoutingTrace
from survey.compare import EQUAL, NOT_TRIED, ONE, WRONG, as_it_runs, not_running, same
from survey.modes import FAMILIES
from survey.tiny_models import random_model, read, tokenizer

Disturb = Callable[[PreTrainedModel], object]
PATIENCE = 20  # seconds until two models that wait for each other give up
NEW = 3


def _quiet(architecture: str, kernels: bool = False) -> RoutingTrace:
    return _traced(random_model(architecture), kernels)


def _traced(model: PreTrainedModel, kernels: bool) -> RoutingTrace:
    new = NEW if model.config.model_type in FAMILIES else 0  # some of the others, as tiny as these, do not generate
    return trace(model, ONE, tokenizer=tokenizer(), max_new_tokens=new, kernels=kernels)


def _disturbed(architecture: str, disturb: Disturb, kernels: bool = False) -> str:
    """A trace in whose every forward `disturb` runs, between two layers, in a thread of its own."""
    quiet, model = _quiet(architecture, kernels), random_model(architecture)
    owner = threading.get_ident()

    def meanwhile(*_: object) -> None:
        if threading.get_ident() == owner:
            other = threading.Thread(target=disturb, args=(model,))
            other.start()
            other.join()

    find_routers(model)[-1].block.register_forward_pre_hook(meanwhile)
    return same(_traced(model, kernels), quiet)


def _foreign() -> Batch:
    """Tokens of someone else's: as many as are being traced, but others."""
    ids = torch.arange(len(tokenizer()(ONE)["input_ids"]))[None, :] * 5 + 40
    return Batch(ids, torch.ones_like(ids))


def _call_the_model(model: PreTrainedModel) -> None:
    read(model, _foreign())


def _call_its_stack(model: PreTrainedModel) -> None:
    stack = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    batch = _foreign()
    with torch.no_grad():
        stack(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)


def _hooked(architecture: str, hook: Callable[[Router], object], kernels: bool = False) -> str:
    """A trace of a model with hooks of the user's, of which the quiet one has none."""
    quiet, model = _quiet(architecture, kernels), random_model(architecture)
    hook(find_routers(model)[-1])
    if why := not_running(model):  # with such a hook
        return why
    return same(_traced(model, kernels), quiet)


def _run_the_block_again(router: Router) -> None:
    def again(block: nn.Module, given: tuple, named: dict, _output: object) -> None:
        block.forward(*given, **named)

    router.block.register_forward_hook(again, with_kwargs=True)


def _only_look(router: Router) -> None:
    seen: list[object] = []
    for part in (router.block, router.module, *router.block.children()):
        part.register_forward_pre_hook(lambda _part, given: seen.append(given))
        part.register_forward_hook(lambda _part, _given, output: seen.append(output))


def _answer_changed(architecture: str, kernels: bool = False) -> str:
    """A hook that gives every token other experts, which the block then runs."""
    model = random_model(architecture)
    for router in find_routers(model):
        if router.odd:
            return f"{NOT_TRIED}: {router.kind} has an answer of its own"
        router.module.register_forward_hook(_mirrored)
    return as_it_runs(model, kernels=kernels)


def _mirrored(_router: nn.Module, _given: tuple, answer: tuple) -> tuple:
    logits, weights, experts, *more = answer
    return (logits, weights, logits.shape[-1] - 1 - experts, *more)


class _Own(Exception):
    """A user's."""


def _hook_raises(architecture: str, kernels: bool = False) -> str:
    """What the user's hook raises comes through, and leaves the model as it was."""
    quiet, model = _quiet(architecture, kernels), random_model(architecture)

    def fail(*_: object) -> None:
        raise _Own

    hook = find_routers(model)[-1].module.register_forward_hook(fail)
    try:
        _traced(model, kernels)
        return f"{WRONG}: what a hook raised was swallowed"
    except _Own:
        hook.remove()
    return same(_traced(model, kernels), quiet)


def _two_at_once(architecture: str, kernels: bool = False) -> str:
    """Two models are traced in two threads, and each waits in every prompt for the other to be as far."""
    quiet, models = _quiet(architecture, kernels), [random_model(architecture) for _ in range(2)]
    meet, made = threading.Barrier(2, timeout=PATIENCE), {}

    def work(number: int) -> None:
        try:
            made[number] = _traced(models[number], kernels)
        except MoevizError as error:
            made[number] = error
            meet.abort()

    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_meeting(model, meet))
        workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    refused = [error for error in made.values() if isinstance(error, MoevizError)]
    if refused:
        raise refused[0]
    told = [same(made[number], quiet) if number in made else f"{WRONG}: no trace" for number in range(2)]
    return next((verdict for verdict in told if verdict != EQUAL), EQUAL)


@contextmanager
def _meeting(model: PreTrainedModel, meet: threading.Barrier) -> Iterator[None]:
    def wait(*_: object) -> None:
        meet.wait()

    hook = find_routers(model)[-1].block.register_forward_pre_hook(wait)
    try:
        yield
    finally:
        hook.remove()


def _both(name: str, way: Callable[..., str]) -> dict[str, Callable[[str], str]]:
    return {name: way, f"{name}, kernels": partial(way, kernels=True)}


EVERYWHERE: dict[str, Callable[[str], str]] = {
    **_both("a thread calls the model", partial(_disturbed, disturb=_call_the_model)),
    **_both("a thread calls its stack", partial(_disturbed, disturb=_call_its_stack)),
    **_both("a hook runs a block again", partial(_hooked, hook=_run_the_block_again)),
    **_both("hooks only look", partial(_hooked, hook=_only_look)),
    **_both("a hook changes the answers", _answer_changed),
    **_both("a hook raises", _hook_raises),
    **_both("two models at once", _two_at_once),
}
