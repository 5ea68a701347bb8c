"""Why this expert, in parts: the exact split of a router's logits into what each part of the model wrote before it.

A router multiplies its rows with a norm of the residual stream, and the stream is a sum: the embedding, and what each
attention and each block of experts before the router added. With the norm's scale held as it was measured, the logits
are the same sum. Nothing of this is taken on trust: each addition, the norm and the logits are worked out again from
the parts, and where anything else comes out, the model is refused.

Letters: D numbers of the stream, E experts, P parts.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.patching import in_this_thread, patched
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.hooks import exclusive_eval, recording_hooks
from moeviz.capture.record.next_tokens import layers_of
from moeviz.capture.routers.discovery import Router, find_routers, order_of, router_sites
from moeviz.capture.routers.geometry import router_rows
from moeviz.capture.run.prompts import ModelInput, no_generated_tokens, prepare
from moeviz.capture.run.request import CaptureRequest, prompts_of
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.routing_trace import RoutingTrace
from moeviz.text import no_layer

EMBEDDING, ATTENTION, EXPERTS, MLP, BIAS, ROUNDING = "embedding", "attention", "experts", "MLP", "bias", "rounding"
NONE = -1  # the layer of what is of no layer
CLOSE = 1e-4  # of the largest logit: how far the sum of the parts may be from the logits
MOST_ROUNDING = 0.1  # the same, of what half precision rounds
COLUMNS = {
    "layer": "int32",
    "part": "str",
    "part_layer": "int32",
    "expert": "int16",
    "slot": "int8",
    "logit": "float64",
    "above_mean": "float64",
}


def direct_attribution(
    model: LoadedModel | nn.Module | str,
    prompt: str | Sequence[Any],
    token: int = -1,
    *,
    layers: Collection[int] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool = False,
) -> pd.DataFrame:
    """Split routers' logits at one token into what each part of the model wrote into the residual stream before them.

    The split is exact and linear: with the norm before the router held at its measured scale, the parts add up to the
    router's logits, within 1e-4 of the largest. It does not say which part decides: take one away, and later parts and
    the norm change as well (see `occlude`). It costs one forward of the prompt.

    prompt  one text, or with `chat` one conversation as `trace` takes it.
    token   a row of the prompt's trace; below 0 it is counted from the end.
    layers  the model's own indices of MoE layers; default: all.
    chat    True reads the prompt as a user's turn of a chat, as in `trace`.

    One row per MoE layer, part and expert. Columns: layer int32 (of the router) · part str (embedding, attention,
    experts, MLP, bias or rounding) · part_layer int32 (the layer that wrote it; -1 where none did) · expert int16 ·
    slot int8 (in which the router chose the expert; -1 where it did not) · logit float64 (what the part adds to the
    expert's logit) · above_mean float64 (the same less its mean over all experts: what is added to all alike chooses
    none).

    Attention is whatever mixes tokens; experts are their whole block, with shared ones; bias is that of the norm and
    of the router; rounding is what half precision leaves over, at most 0.1 of the largest logit. Logits are those
    before a balancing bias, which some families add only for the choice.

    Raises `CaptureError` if the parts do not add up to the logits, as with norms or factors on what layers write,
    and for a layer that is not there; `InvalidPrompt` for a token that is not there; and what `trace` raises.

    >>> import moeviz
    >>> parts = moeviz.direct_attribution(moeviz.load_model(), "Ich komme mit.", 3, layers=[1])
    >>> parts[parts["slot"] == 0][["part", "part_layer"]].values.tolist()
    [['embedding', -1], ['attention', 0], ['experts', 0], ['attention', 1]]

    Source: direct logit attribution, Elhage et al. (A Mathematical Framework for Transformer Circuits, 2021), here of
    a router's logits.
    """
    return attributed(model, CaptureRequest(prompts_of(prompt), chat=chat), token, layers, tokenizer=tokenizer)[1]


@torch.no_grad()
def attributed(
    model: LoadedModel | nn.Module | str,
    request: CaptureRequest,
    token: int,
    layers: Collection[int] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[RoutingTrace, pd.DataFrame]:
    """Return the trace of the one prompt of a request, and `direct_attribution` of a token of it. Errors as there."""
    run = prepare(model, request, tokenizer)
    count, tokens = run.batch.input_ids.shape
    if count != 1:
        raise InvalidPrompt(
            f"A split of the router's logits is of one text, and these are {count:,}. Give one of them."
        )
    if not -tokens <= token < tokens:
        raise InvalidPrompt(f"There is no token {token} in a prompt of {tokens:,} tokens, which are counted from 0.")
    with ExitStack() as stack:
        stack.enter_context(exclusive_eval(run.model))
        routers = find_routers(run.model, request.site)
        heard = stack.enter_context(_record_stream(run, routers, token))  # first: the recorder's hooks must be the last
        recording = stack.enter_context(recording_hooks(run.model, keep_logits=True, site=request.site))
        run.model(input_ids=run.batch.input_ids, attention_mask=run.batch.attention_mask, use_cache=False)
    trace = assemble(recording, run, no_generated_tokens(run.batch))
    if missing := set(layers or ()) - set(trace.model.layers):
        raise CaptureError(no_layer(run.info.name, min(missing), trace.model.layers))
    if trace.logits is None:
        raise _cannot(run, "its routers give no logits")
    logits = trace.logits[:, token].astype(np.float64)
    parts = _parts_of_stream(run, routers, heard)
    frames = [
        _frame(run, router, heard[router.layer], parts, logits[at, : router.num_experts], trace.experts[at, token])
        for at, router in enumerate(routers)
        if layers is None or router.layer in layers
    ]
    return trace, pd.concat(frames, ignore_index=True).astype(COLUMNS)


def _cannot(run: ModelInput, why: str) -> CaptureError:
    return CaptureError(f"The router logits of {type(run.model).__name__} cannot be split into parts: {why}.")


@dataclass(slots=True)
class _LayerStream:
    """One layer at the token: the residual stream before and after it, and the rows (D,) that it wrote."""

    before: list[Tensor] = field(default_factory=list)  # the stream that it read, of each call
    after: list[Tensor] = field(default_factory=list)
    written: dict[str, Tensor] = field(default_factory=dict)  # by child, in the order in which they ended
    kinds: dict[str, str] = field(default_factory=dict)  # attention, experts or MLP
    norms: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)  # module, what it read and answered
    given: Tensor | None = None  # to the router
    wrote: int = 0  # children that had written before the router ran
    scale: float = 1.0  # by which the layer multiplies what a child answers, before it adds it (Granite)

    def began(self, read: Tensor | None, _: Tensor | None) -> None:
        if read is not None:
            self.before.append(read)

    def ended(self, _: Tensor | None, answered: Tensor | None) -> None:
        if answered is not None:
            self.after.append(answered)

    def child_ended(
        self, name: str, child: nn.Module, routes: bool, read: Tensor | None, answered: Tensor | None
    ) -> None:
        """Note a child's output, or a norm's."""
        kind = type(child).__name__.lower()
        if answered is None or isinstance(child, nn.Dropout | nn.Identity):
            return
        if "norm" not in kind:
            self.kinds[name], self.written[name] = _kind(kind, routes), answered * self.scale
        elif read is not None:
            self.norms.append((child, read, answered))

    def router_began(self, read: Tensor | None, _: Tensor | None) -> None:
        """Note the router's input, and the number of children that had written by then."""
        self.given, self.wrote = read, len(self.written)


@contextmanager
def _record_stream(run: ModelInput, routers: Sequence[Router], token: int) -> Iterator[list[_LayerStream]]:
    """Record in this block what each layer up to the last router's reads, writes and returns at a token."""
    modules = layers_of(run.model, routers)
    if run.model.config.is_encoder_decoder or modules is None:
        raise _cannot(run, "they are not all in the layers of one decoder")
    if len(order_of(run.model, routers)) != len(routers):
        raise _cannot(run, "its layers run several times")
    config = run.model.config.get_text_config()
    scale = float(getattr(config, "residual_multiplier", 1.0))
    heard = [_LayerStream(scale=scale) for _ in range(max(router.layer for router in routers) + 1)]
    routing = {router.module for site in router_sites(run.model) for router in find_routers(run.model, site)}
    shape = run.batch.input_ids.numel(), config.hidden_size
    with ExitStack() as stack:
        listen = partial(_note_calls, stack, shape, token)
        for layer, module in zip(heard, modules, strict=False):
            listen(module, layer.began, before=True)
            listen(module, layer.ended)
            for name, child in module.named_children():
                listen(child, partial(layer.child_ended, name, child, bool(routing & set(child.modules()))))
        for router in routers:
            listen(router.module, heard[router.layer].router_began, before=True)
        yield heard


def _note_calls(
    stack: ExitStack,
    shape: tuple[int, int],
    token: int,
    module: nn.Module,
    note: Callable[[Tensor | None, Tensor | None], None],
    *,
    before: bool = False,
) -> None:
    """Pass the token's row of a module's input and of its output to `note`, in this thread, until the stack is closed.

    shape   of the stream: the number of tokens, and the size of each token's vector.
    note    gets None for an input or output of another shape, and for the output with `before`.
    """

    def row(of: Any) -> Tensor | None:
        part = of[0] if isinstance(of, tuple) and of else of
        if not isinstance(part, Tensor) or part.shape not in ((1, *shape), shape):
            return None
        return part.reshape(-1, shape[1])[token].detach().to("cpu", copy=True)

    def hook(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], *answer: Any) -> None:
        note(row(given[0] if given else named.get("hidden_states")), row(answer[0] if answer else None))

    put = module.register_forward_pre_hook if before else module.register_forward_hook
    stack.enter_context(patched(lambda: put(in_this_thread(hook), with_kwargs=True).remove))


def _kind(name: str, routes: bool) -> str:
    """Distinguish attention, experts and MLP by the name of a module's class and whether it has routers."""
    if "attention" in name:  # some choose experts of their own
        return ATTENTION
    return EXPERTS if routes else MLP if "mlp" in name or "feedforward" in name else ATTENTION


class _Part(NamedTuple):
    """Something that was written into the stream."""

    name: str
    layer: int
    row: Tensor  # (D,) float64


def _parts_of_stream(run: ModelInput, routers: Sequence[Router], heard: Sequence[_LayerStream]) -> list[list[_Part]]:
    """Return the embedding, and what each layer wrote; each layer must have added that and nothing else."""
    parts: list[list[_Part]] = []
    blocks = {router.layer for router in routers}
    for index, layer in enumerate(heard):
        if len(layer.before) != 1 or len(layer.after) != 1:
            raise _cannot(run, f"layer {index} does not read and pass on one residual stream")
        before, after = layer.before[0], layer.after[0]
        if index and not torch.equal(before, heard[index - 1].after[0]):
            raise _cannot(run, f"something is done to the residual stream before layer {index}")
        if not _is_sum(after, [before, *layer.written.values()]):
            raise _cannot(run, f"what layer {index} adds is not what its attention and experts put out")
        if (index in blocks) != (EXPERTS in layer.kinds.values()):
            raise _cannot(run, f"the experts of layer {index} do not write into the residual stream by themselves")
        if not parts:
            parts.append([_Part(EMBEDDING, NONE, before.double())])
        parts.append([_Part(layer.kinds[name], index, row.double()) for name, row in layer.written.items()])
    return parts


def _is_sum(whole: Tensor, parts: Sequence[Tensor]) -> bool:
    """Return whether a row is the sum of others, except for rounding in its dtype at each addition."""
    eps = max(torch.finfo(part.dtype).eps for part in (whole, *parts))
    every = torch.stack([part.double() for part in parts])
    return bool(((whole.double() - every.sum(0)).abs() <= len(parts) * eps * every.abs().sum(0)).all())


def _frame(
    run: ModelInput,
    router: Router,
    layer: _LayerStream,
    parts: Sequence[Sequence[_Part]],
    logits: np.ndarray,
    chosen: np.ndarray,
) -> pd.DataFrame:
    """Return the rows of one router: `logits` (E,) as recorded, `chosen` its experts by slot."""
    given = layer.given
    norm = None if given is None else _frozen_norm(layer, given)
    if given is None or norm is None:
        raise _cannot(run, f"the router of layer {router.layer} does not read a norm of the residual stream")
    read = [part for of_layer in parts[: router.layer + 1] for part in of_layer]
    read += parts[router.layer + 1][: norm.own]
    weight, bias = router_rows(router)
    rows = weight.detach().cpu().double()
    named = [(part.name, part.layer, rows @ norm.of(part.row)) for part in read]
    fixed = rows @ norm.bias + (0 if bias is None else bias.detach().cpu().double())
    if fixed.any():
        named.append((BIAS, NONE, fixed))
    half = any(part.dtype.itemsize < 4 for part in (given, weight))
    values, names = np.stack([part.numpy() for *_, part in named]), [(name, of) for name, of, _ in named]
    left = _remainder(run, router.layer, values.sum(0), logits, half)
    if half:
        names, values = [*names, (ROUNDING, NONE)], np.concatenate([values, left[None]])
    E = len(logits)
    slots = np.full(E, NONE)
    taken = chosen >= 0
    slots[chosen[taken]] = np.flatnonzero(taken)
    return pd.DataFrame(
        {
            "layer": router.layer,
            "part": pd.Series(np.repeat([name for name, _ in names], E), dtype="str"),
            "part_layer": np.repeat([of for _, of in names], E),
            "expert": np.tile(np.arange(E), len(names)),
            "slot": np.tile(slots, len(names)),
            "logit": values.ravel(),
            "above_mean": (values - values.mean(axis=1, keepdims=True)).ravel(),
        }
    )


def _remainder(run: ModelInput, layer: int, parts: np.ndarray, logits: np.ndarray, half: bool) -> np.ndarray:
    """Return the logits less the sum of their parts, (E,) each. Raises `CaptureError` for more than rounding."""
    left: np.ndarray = logits - parts
    most = np.abs(logits).max()
    if not np.abs(left).max() <= (MOST_ROUNDING if half else CLOSE) * most:
        raise _cannot(
            run,
            f"in layer {layer} the parts are {np.abs(left).max() / most:.2g} of the largest logit away from the logits"
            + (", rounded as they are. Load the model in float32" if half else ""),
        )
    return left


class _Norm(NamedTuple):
    """The norm that a router reads through, with its scale as it was measured."""

    weight: Tensor  # (D,) float64, the scale in it
    bias: Tensor  # (D,)
    centred: bool  # whether the mean is taken away first
    own: int  # how many parts of the router's own layer it reads

    def of(self, row: Tensor) -> Tensor:
        """Pass a part of the stream through it, without the bias."""
        return self.weight * (row - row.mean() if self.centred else row)


def _frozen_norm(layer: _LayerStream, given: Tensor) -> _Norm | None:
    """Find the norm whose output the router was given; None if it was something else.

    A norm multiplies what it reads by weights and by one number, some after taking the mean away; two vectors of mean 0
    and square 1 tell the weights and the bias.
    """
    before, own = layer.before[0], [*layer.written.values()][: layer.wrote]
    for module, read, answered in reversed(layer.norms):
        count = next((n for n in (len(own), 0) if _is_sum(read, [before, *own[:n]])), None)
        if not torch.equal(answered.to(given), given) or count is None or len(given) % 2:
            continue
        signs = torch.ones_like(read)
        signs[::2] = -1
        device = next((part.device for part in module.parameters()), signs.device)
        up, down = (module(part[None, None].to(device))[0, 0].cpu().double() for part in (signs, -signs))
        unscaled, bias = (up - down) / 2 * signs.double(), (up + down) / 2
        near = (8 * torch.finfo(given.dtype).eps + 1e-6) * given.abs().max().double()
        for centred in (False, True):
            whole = _Norm(unscaled, bias, centred, count).of(read.double())
            scale = ((given.double() - bias) @ whole) / (whole @ whole)
            if bool(((scale * whole + bias - given.double()).abs() <= near).all()):
                return _Norm(scale * unscaled, bias, centred, count)
    return None
