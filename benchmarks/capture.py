"""The cost of capture: time of a forward with capture / without, and bytes kept, on the embedded model.

    python -m benchmarks.capture [--rounds N]

All ways run in one process, one after the other in random order, many rounds; printed are medians of the per-round
ratio to the bare forward of the same round, with the middle half of the rounds, and the ratio of the fastest, which
other work on the machine moves least. All is CPU time of the thread that computes. "1 token" is a decode step: one
token after a prompt of 64, whose routing is recorded too. Hooks are attached before the clock starts, as they are for
all steps of a generation at once; then come whole calls, from the text to the trace or to the table, with all that
`moeviz.trace` and `direct_attribution` do, next to a forward of that text.

    bare                    the model alone
    moeviz                  listen(): expert ids and weights
    moeviz + logits         listen(keep_logits=True)
    output_router_logits    transformers' own way (logits only)
    naive hook              a forward hook on every router that saves its output
    kernels                 fused(): routers and experts run moeviz's way, which on a CPU is plain torch
    kernels + logits        fused(keep_logits=True)
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from benchmarks.harness import interleave, quartiles, ratios
from moeviz.analyses.direct_attribution import direct_attribution
from moeviz.capture.models.load import LoadedModel, load_model
from moeviz.capture.record.hooks import listen
from moeviz.capture.record.kernel_recording import kernels_recording
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.trace import trace
from moeviz.labelled_texts import texts_that_ship

LENGTHS = (1, 64, 512)
LONGEST = max(LENGTHS)
CONTEXT = 64  # tokens in the cache before the decode step
WARM_UP = 5  # rounds that are not counted

Way = Iterator[tuple[dict, list]]  # (arguments for the forward, a list that fills with the tensors kept)


@contextmanager
def bare(_model) -> Way:
    """Run the model without recording."""
    yield {}, []


@contextmanager
def moeviz(model, keep_logits: bool) -> Way:
    """Record as moeviz does."""
    kept = []
    with listen(model, keep_logits) as recording:
        yield {}, kept
    kept += [t for heard in recording.outputs for t in (*heard.experts, *heard.weights, *heard.logits)]


@contextmanager
def kernels(model, keep_logits: bool) -> Way:
    """The routers run by our kernels, the experts by our way on a CPU. It is checked before the clock starts."""
    kept = []
    with kernels_recording(model, CONTEXT + LONGEST, keep_logits) as record:
        yield {}, kept
        parts = [part[: int(r.cursor)] for r in record for part in (r.experts, r.weights, r.logits) if part is not None]
        kept += [part.clone() for part in parts]


@contextmanager
def output_router_logits(_model) -> Way:
    """transformers' own recorder."""
    yield {"output_router_logits": True}, []


@contextmanager
def naive_hook(model) -> Way:
    """Record in the way that most people write by hand."""
    kept = []
    routers = [router.module for router in find_routers(model)]
    hooks = [router.register_forward_hook(lambda _module, _args, output: kept.extend(output)) for router in routers]
    yield {}, kept
    for hook in hooks:
        hook.remove()


WAYS = {
    "bare": bare,
    "moeviz": partial(moeviz, keep_logits=False),
    "moeviz + logits": partial(moeviz, keep_logits=True),
    "output_router_logits": output_router_logits,
    "naive hook": naive_hook,
    "kernels": partial(kernels, keep_logits=False),
    "kernels + logits": partial(kernels, keep_logits=True),
}


def measure(model, tokens: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of each round, and the bytes kept, for each way."""
    kept = dict.fromkeys(WAYS, 0)

    def seconds(name: str) -> float:
        with WAYS[name](model) as (arguments, tensors):
            forward = _forward(model, tokens, arguments)
            start = time.thread_time()
            output = forward()
            took = time.thread_time() - start
        kept[name] = _bytes(tensors + list(output.router_logits or ()))
        return took

    times = interleave({name: partial(seconds, name) for name in WAYS}, rounds, WARM_UP)
    return times, kept


@torch.no_grad()
def main() -> None:
    """Print one table a length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="interleaved rounds (default 200)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    loaded = load_model()
    model = loaded.model
    print(f"torch {torch.__version__}, one thread, {rounds} rounds, embedded model, float32\n")
    print(f"{'tokens':>6}  {'way':<22}{'ratio':>8}   {'middle half':<16}{'fastest':>8}{'bytes kept':>13}")
    for tokens in LENGTHS:
        _print_ratios(tokens, *measure(model, tokens, rounds))
    for tokens in LENGTHS[1:]:
        _print_ratios(tokens, whole_calls(loaded, tokens, rounds), {})


def _print_ratios(tokens: int, times: dict[str, list[float]], kept: dict[str, int]) -> None:
    for name in times:
        middle, half = quartiles(ratios(times, name, "bare"))
        fastest = min(times[name]) / min(times["bare"])
        size = f"{kept[name]:,}" if kept and tokens > 1 else ""  # a decode step keeps little, and its prompt is there
        print(f"{tokens:>6}  {name:<22}{middle:>8.3f}   {half}  {fastest:>8.3f}{size:>13}", flush=True)
    print()


def _forward(model, tokens: int, arguments: dict) -> Callable:
    """Run the work that is timed. The cache of a decode step is filled here, outside the timing."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(3, model.config.vocab_size, (1, CONTEXT + tokens), generator=generator)
    if tokens > 1:
        return partial(model, ids[:, :tokens], use_cache=False, logits_to_keep=1, **arguments)
    past = model(ids[:, :CONTEXT], use_cache=True, logits_to_keep=1, **arguments).past_key_values
    return partial(model, ids[:, CONTEXT:], past_key_values=past, logits_to_keep=1, **arguments)


def whole_calls(loaded: LoadedModel, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round of whole calls, from a text to what it gives, and of a forward of that text."""
    text, word = " ".join(text for _, text in texts_that_ship()), loaded.tokenizer
    text = word.decode(word(text[: 16 * tokens])["input_ids"][:tokens], skip_special_tokens=True)
    ids = torch.tensor([word(text)["input_ids"]])

    def seconds(run: Callable[[], object]) -> float:
        start = time.thread_time()
        run()
        return time.thread_time() - start

    calls = {
        "bare": partial(loaded.model, ids, use_cache=False, logits_to_keep=1),
        "moeviz.trace": partial(trace, loaded, text),
        "… next_tokens": partial(trace, loaded, text, next_tokens=True),
        "… outputs": partial(trace, loaded, text, outputs=True),
        "… kernels": partial(trace, loaded, text, kernels=True),
        "direct_attribution": partial(direct_attribution, loaded, text),
    }
    return interleave({name: partial(seconds, call) for name, call in calls.items()}, rounds, WARM_UP)


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


if __name__ == "__main__":
    main()
