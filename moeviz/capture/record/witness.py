"""Record what experts receive when they run: a witness of routing that does not look at routers.

It notes, for every module with experts and for every token, which experts got the token and, if that can be seen, with
which weights; a weight of 0 is noted too if the experts are given ids. Each model is checked against it once, on a few
tokens, before its first trace. The survey (`tests/survey`) compares every architecture with the same witness.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from moeviz.capture.models.load import context_length
from moeviz.capture.models.patching import in_this_thread
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.hooks import exclusive, recording_hooks
from moeviz.capture.routers.discovery import Router, find_routers, unwrapped_module, unwrapped_path
from moeviz.capture.run.generation import read_once
from moeviz.capture.run.prompts import Batch, ModelInput, in_one_batch, no_generated_tokens
from moeviz.errors import CaptureError
from moeviz.routing_trace import NO_EXPERT, RoutingTrace

Routing = list[dict[int, float | None]]  # of one block: expert -> weight, for each token


class Calls(list[Routing]):
    """The routing that one module received, one entry per call."""

    def __init__(self, path: str, order: list[tuple[str, Routing]]) -> None:
        super().__init__()
        self.path, self.order = path, order

    def append(self, routing: Routing) -> None:
        """Add a call."""
        super().append(routing)
        self.order.append((self.path, routing))

    def forget(self) -> None:
        """Leave this module out, since what it received cannot be seen."""
        self.order[:] = [(path, routing) for path, routing in self.order if path != self.path]
        self.clear()


class Testimony(dict[str, Calls]):
    """The calls by the path of a module, and of all modules in the order in which they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[str, Routing]] = []

    def calls(self, path: str) -> Calls:
        """Return the list for what the module at this path receives."""
        return self.setdefault(path, Calls(path, self.order))


@contextmanager
def witnessed(model: nn.Module) -> Iterator[Testimony]:
    """Inside the block, note what the experts of `model` receive."""
    testimony, parts = Testimony(), dict(model.named_modules())
    with ExitStack() as stack:
        for path, part in parts.items():
            if isinstance(part, nn.ModuleList) and is_standard(path, part):
                for hook in _listed(parts[path.rpartition(".")[0]], part, testimony.calls(path)):
                    stack.callback(hook.remove)
                continue
            for name, attend in WITNESSES.items():
                if type(part).__name__ == name or (name == STANDARD and is_standard(path, unwrapped_module(part))):
                    for hook in attend(part, testimony.calls(path)):
                        stack.callback(hook.remove)
                    break
        yield testimony


def _before(module: nn.Module, note: Callable[..., None], with_kwargs: bool = False) -> RemovableHandle:
    return module.register_forward_pre_hook(in_this_thread(note), with_kwargs=with_kwargs)


def is_standard(path: str, part: nn.Module) -> bool:
    """Return whether a module holds experts that are called with (hidden states, expert ids, weights)."""
    return path.rpartition(".")[2] == "experts" and type(part).__name__ not in WITNESSES


def _ids_and_weights(experts: nn.Module, calls: Calls) -> list:
    """Find the ids and weights of experts that are called with (hidden states, expert ids, weights)."""

    def note(_module: nn.Module, given: tuple, named: dict) -> None:
        tensors = [*given, *named.values()]
        ids = next((part for part in tensors if not part.is_floating_point()), None)
        if ids is None:  # a form that moeviz does not know: nothing is witnessed
            return
        weights = next(part for part in tensors if part.is_floating_point() and part.shape == ids.shape)
        calls.append([weights_of(*row) for row in zip(ids.tolist(), weights.tolist(), strict=True)])

    return [_before(experts, note, with_kwargs=True)]


def weights_of(ids: Iterable[int], weights: Iterable[float]) -> dict[int, float | None]:
    """Return the weight of each expert that one token is sent to; of one that has several slots, their sum."""
    found: dict[int, float | None] = {}
    for expert, weight in zip(ids, weights, strict=True):
        if expert != NO_EXPERT:
            found[expert] = weight + (found.get(expert) or 0)
    return found


def _masks(experts: nn.Module, calls: Calls) -> list:
    """A ModuleDict of experts that is given (hidden states, mask, weights); each expert's rows are found again."""
    given: dict[str, Tensor] = {}

    def note(_module: nn.Module, arguments: tuple) -> None:
        given["hidden"], given["weights"] = arguments[0], arguments[2]
        calls.append([{} for _ in arguments[0]])

    def note_expert(number: int) -> Callable:
        def note_rows(_expert: nn.Module, arguments: tuple) -> None:
            for token in _places(arguments[0], given["hidden"]):
                calls[-1][token][number] = given["weights"][token].max().item()

        return note_rows

    hooks = [_before(experts, note)]
    numbered = {int(name.split("_")[1]): part for name, part in experts.items() if name.startswith("expert_")}
    return hooks + [_before(part, note_expert(number)) for number, part in numbered.items()]


def _listed(block: nn.Module, experts: nn.ModuleList, calls: Calls) -> list:
    """Find the rows of what the block reads that each expert of a list was given."""
    met: dict[str, Tensor] = {}

    def note(_block: nn.Module, given: tuple, named: dict) -> None:
        hidden = next(part for part in (*given, *named.values()) if isinstance(part, Tensor))
        met["hidden"] = hidden.reshape(-1, hidden.shape[-1])
        calls.append([{} for _ in met["hidden"]])

    def note_expert(number: int) -> Callable:
        def note_rows(_expert: nn.Module, given: tuple) -> None:
            rows = given[0].reshape(-1, given[0].shape[-1])
            places = _places(rows, met["hidden"]) if rows.shape[-1] == met["hidden"].shape[-1] else []
            if len(places) < len(rows):  # the block gives its experts something else than what it reads
                calls.forget()
            for token in places if calls else ():
                calls[-1][token][number] = None

        return note_rows

    hooks = [_before(block, note, with_kwargs=True)]
    return hooks + [_before(expert, note_expert(number)) for number, expert in enumerate(experts)]


def _places(rows: Tensor, among: Tensor) -> list[int]:
    same = (rows[:, None] == among[None]).all(dim=-1)
    return same.nonzero()[:, 1].tolist()


def _scaled_inputs(experts: nn.Module, calls: Calls) -> list:
    """Experts that are given every token, E times, scaled: by 0 where it was not sent to them."""

    def note(module: nn.Module, given: tuple) -> None:
        scaled = given[0].view(module.num_experts, -1, given[0].shape[-1])
        chosen = (scaled != 0).any(dim=-1)  # (E, T)
        calls.append([dict.fromkeys(chosen[:, token].nonzero()[:, 0].tolist()) for token in range(chosen.shape[1])])

    return [_before(experts, note)]


def _sorted_rows(block: nn.Module, calls: Calls) -> list:
    """Linear layers of experts that are given the tokens of expert 0, then those of 1, and how many each has."""
    met: dict[str, Tensor] = {}

    def note_tokens(_router: nn.Module, given: tuple) -> None:
        met["hidden"] = given[0]

    def note(_module: nn.Module, given: tuple) -> None:
        rows, counts = given
        calls.append([{} for _ in met["hidden"]])
        for expert, part in enumerate(rows.split(counts)):
            for token in _places(part, met["hidden"]):
                calls[-1][token][expert] = None

    return [_before(block.router, note_tokens), _before(block.input_linear, note)]


def _looked_up(embedding_holder: nn.Module, calls: Calls) -> list:
    """Experts that are rows of an embedding."""

    def note(_module: nn.Module, given: tuple) -> None:
        calls.append([dict.fromkeys(row) for row in given[0].tolist()])

    return [_before(embedding_holder.down_embed, note)]


STANDARD = "experts"
WITNESSES: dict[str, Callable[[nn.Module, Calls], list]] = {
    "SwitchTransformersExperts": _masks,
    "NllbMoeExperts": _masks,
    "Llama4TextExperts": _scaled_inputs,
    "JetMoeMoE": _sorted_rows,
    "JetMoeMoA": _sorted_rows,
    "DogeCDMoE": _looked_up,
    STANDARD: _ids_and_weights,
}


WORDS = "The router of each layer sends every token to a few experts."
MOST = 16  # tokens
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # of weights: the same sums in another order
AGREED = "checked on {} tokens: the experts received what is recorded"
UNSEEN = "not checked: {}"
log = logging.getLogger("moeviz.capture")
_guard = threading.Lock()
_reading_others: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
LARGE_SHARE = 0.1  # of the expert ids, for routers that have no logits
_checked: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def _once(known: WeakKeyDictionary[nn.Module, dict[str, Any]], run: ModelInput, ask: Callable[..., Any]) -> Any:
    """Return what is known of a model and a site; at first what `ask(run, site)` returns."""
    site = run.info.site
    with _guard:
        of_model = known.setdefault(run.model, {})
    if site not in of_model:
        of_model[site] = ask(run, site)
    return of_model[site]


def checked(run: ModelInput) -> str:
    """Check once per model and site that its trace is what its experts receive, and return the words for the trace.

    The model reads a fixed sentence of at most 16 tokens. Raises `CaptureError` if the experts receive something else
    than what the routers are recorded to send them, unless an adapter's caution names that.
    """
    return str(_once(_checked, run, _check))


def _check(run: ModelInput, site: str) -> str:
    trial = _without_images(run, _trial_batch(run))
    hooks = recording_hooks(run.model, site=site or None)
    with exclusive(run.model), _own_draws(run.model), hooks as recording, witnessed(run.model) as testimony:
        read_once(run.model, trial.batch)
        made = assemble(recording, trial, no_generated_tokens(trial.batch))
    if made.model.caution:
        log.warning("%s", made.model.caution)
    if not any(testimony.values()):
        return UNSEEN.format(f"moeviz cannot see what the experts of {type(run.model).__name__} receive")
    trouble = difference(made, run.model, testimony)
    if not trouble:
        return AGREED.format(len(made.tokens))
    if made.model.caution and made.model.caution != run.info.caution:  # an adapter names the difference
        return UNSEEN.format("the caution says how the experts of this model differ")
    raise CaptureError(
        f"What moeviz records of {run.info.name} is not what its experts receive ({trouble}), so a trace of it would "
        "not be true. Please report this model, or give an adapter that reads its router."
    )


LIMIT = {torch.float32: 0.01, torch.float64: 0.01}  # of the routers' logits, in their standard deviations
LIMIT_OF_HALF = 0.05
BY_ITSELF = "{} routes a text otherwise when it stands in a batch, so each text was read by itself"


def reads_others(run: ModelInput) -> bool:
    """Check once per model and site whether a text is routed differently in a padded batch than by itself.

    Half of a fixed sentence is read by itself, and together with the whole: two forwards of at most 16 tokens. Numbers
    differ by rounding; what a model takes from the padding or from the other text is larger.
    """
    return bool(_once(_reading_others, run, _reads_others))


def _reads_others(run: ModelInput, site: str) -> bool:
    whole = _trial_batch(run).input_ids[0].tolist()
    half = whole[: len(whole) // 2]
    if not half:
        return False
    alone, batched = (_read(run, site, rows) for rows in ([half], [half, whole]))
    batched = batched.select(tokens=(batched.tokens["sequence"] == 0).to_numpy())
    if alone.logits is None or batched.logits is None:
        return bool((np.sort(alone.experts) != np.sort(batched.experts)).mean() > LARGE_SHARE)
    limit = LIMIT.get(run.model.dtype, LIMIT_OF_HALF)
    return any(_distance(one, other) > limit for one, other in zip(alone.logits, batched.logits, strict=True))


def _read(run: ModelInput, site: str, rows: list[list[int]]) -> RoutingTrace:
    trial = _without_images(run, in_one_batch(run.model, rows, 0))
    hooks = recording_hooks(run.model, keep_logits=True, site=site or None)
    with exclusive(run.model), _own_draws(run.model), hooks as recording:
        read_once(run.model, trial.batch)
        return assemble(recording, trial, no_generated_tokens(trial.batch))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root mean square of the difference of two layers' logits (T, E), in standard deviations."""
    known = np.isfinite(one) & np.isfinite(other)
    spread = float(one[known].std())
    return float(np.sqrt(np.mean((one[known] - other[known]) ** 2))) / spread if spread else 0.0


def _own_draws(model: nn.Module) -> AbstractContextManager[None]:
    """Restore the random generators after a block in which a model in training mode draws numbers.

    Otherwise it draws none, and the draws of other threads are left as they are.
    """
    if not any(part.training for part in model.modules()):
        return nullcontext()
    devices = {tensor.device for tensor in model.parameters()} - {torch.device("cpu"), torch.device("meta")}
    kind = next(iter(devices)).type if devices else None
    return torch.random.fork_rng([one for one in devices if one.type == kind], device_type=kind)


def _without_images(run: ModelInput, batch: Batch) -> ModelInput:
    """Return the run with other tokens, and without the images, which only the prompt has."""
    return replace(run, batch=batch, images=(), image_columns=None)


def _trial_batch(run: ModelInput) -> Batch:
    """Return the same few tokens whatever the prompt is; the prompt's own if the tokenizer is not quite the model's."""
    config = run.model.config.get_text_config()
    ids = run.tokenizer(WORDS, verbose=False)["input_ids"][: min(MOST, context_length(run.model.config) or MOST)]
    own = run.batch.input_ids[:1][run.batch.attention_mask[:1] == 1][None, :MOST]
    suits = len(ids) and max(ids) < config.vocab_size
    input_ids = torch.tensor([ids], device=own.device) if suits else own
    return Batch(input_ids, torch.ones_like(input_ids))


def difference(made: RoutingTrace, model: PreTrainedModel, testimony: Testimony) -> str:
    """Describe how a trace of one sequence, read in one forward, differs from what experts received; "" if it does not.

    Only the last forward counts: in those before, moeviz's kernels may have been tried out.
    """
    received = _of_the_site(made, model, testimony)
    if len(received) < len(made.experts):
        return f"{len(received)} layers were witnessed, and {len(made.experts)} recorded"
    for layer, (router, routing) in enumerate(received[-len(made.experts) :]):
        if len(routing) != len(made.tokens):
            return f"layer {layer} received {len(routing)} tokens, and {len(made.tokens)} are recorded"
        for token, expected in enumerate(routing):
            if trouble := _at(made, layer, token, expected, router, _tolerance(model)):
                return f"layer {layer}, token {token}: {trouble}"
    return ""


def _of_the_site(made: RoutingTrace, model: PreTrainedModel, testimony: Testimony) -> list[tuple[Router, Routing]]:
    """Return what was witnessed where the traced routers are, in the order in which it ran."""
    places_of: dict[str, Router] = {}
    witnessed_at = {unwrapped_path(path) for path, calls in testimony.items() if calls}
    for router in find_routers(model, made.model.site or None):
        places = (*router.experts, router.block_path, router.path)
        places_of |= dict.fromkeys([place for place in places if place in witnessed_at][:1], router)
    ran = ((unwrapped_path(path), routing) for path, routing in testimony.order)
    return [(places_of[path], routing) for path, routing in ran if path in places_of]


def _at(made: RoutingTrace, layer: int, token: int, expected: dict, router: Router, tolerance: float) -> str:
    recorded = weights_of(made.experts[layer, token].tolist(), made.weights[layer, token].tolist())
    received = {expert: weight for expert, weight in expected.items() if weight != 0}
    trifles = {expert for expert, weight in recorded.items() if abs(weight) <= tolerance * ABSOLUTE / RELATIVE}
    idle = {expert for expert in recorded if expert >= router.num_experts - router.zero_experts} - set(received)
    if set(recorded) - trifles - idle != set(received) - trifles or not (idle or set(expected) <= set(recorded)):
        return f"recorded {recorded}, received {expected}"
    close = {"rtol": tolerance, "atol": tolerance * ABSOLUTE / RELATIVE}
    if not all(np.isclose(recorded[e], w * router.factor, **close) for e, w in received.items() if w is not None):
        return f"recorded {recorded}, received {expected}"
    return ""


def _tolerance(model: PreTrainedModel) -> float:
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else model.dtype
    return max(RELATIVE, torch.finfo(dtype).eps)
