"""RoutingHealth: routing while a model trains, for loops of one's own, and for the callback of Trainer.

Letters: W steps since the last log, L layers, E experts (of the layer with the most).
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moeviz.capture.models.patching import unwrap_peft
from moeviz.capture.routers.discovery import ADAPTED, Router, find_routers, unwrapped_path
from moeviz.errors import InvalidTrace
from moeviz.metrics.routing_over_training import router_saturation
from moeviz.routing_trace import RoutingTrace
from moeviz.text import listed
from moeviz.training.alarms import Alarms, LogFigures, Watched
from moeviz.training.layer_metrics import Detail, layer_metrics, log_metrics
from moeviz.training.recorded.rules import Rules, as_json
from moeviz.training.router_hooks import RouterRecorder, Tokens, later_hook
from moeviz.training.snapshots import routers_differ, sample_of, snapshot_of
from moeviz.training.writing import RunWriter

log = logging.getLogger("moeviz.training")
MOST_STEPS = 1_000  # that are kept on the device until a log is due


class RoutingHealth:
    """Watch the routers of a model in your own training loop.

        health = RoutingHealth(model, out="run/routing")
        loss.backward(); optimizer.step(); health.step()
        numbers = health.report(loss)                        # when a log is due, on every rank

    model        a transformers MoE, a PeftModel, or what DDP, accelerate or torch.compile made of one.
    out          the folder of the run: routing.jsonl, counts and snapshots. None: nothing is written.
    tokens       "real": those that the attention mask keeps, or all without a mask. "trained": those whose
                 next token has a label.
    detail       "brief" reports the mean and the worst layer of each figure; "layers" every layer's too.
    rules        thresholds of the alarms; for a run from scratch, `Rules.from_scratch()`.
    group        the process group over which counts are summed: the data-parallel one, if replicas of tensor
                 parallelism see the same tokens.
    site         which routers, in a model that has several kinds; see `moeviz.trace`.
    coefficient  of the aux loss. Default: the config's.
    effective    what it really counts, if a trainer divides the loss and not the aux loss.

    A step is an optimizer step: counts are summed over its micro-batches and all ranks, and a log is of the sums of its
    steps, never a mean of ratios. Each real token counts once, in the first pass of a forward that has gradients
    enabled and runs in training mode. Evaluation is counted apart; generation, reference log-probabilities and
    snapshots are not. What the model computes is not changed by a bit.

    `alarms.on` has the alarms that are on, with their sentences; `said` the facts that are not alarms.

    Raises `CaptureError` for a model whose routers moeviz does not know, or with prompt learning.
    """

    def __init__(
        self,
        model: nn.Module,
        out: str | Path | None = None,
        *,
        tokens: Tokens | str = "real",
        detail: Detail | str = "brief",
        rules: Rules | None = None,
        group: Any = None,
        site: str | None = None,
        coefficient: float | None = None,
        effective: float | None = None,
    ) -> None:
        if tokens not in ("real", "trained") or detail not in ("brief", "layers"):
            raise InvalidTrace(
                f"tokens is {tokens!r} and detail is {detail!r}; they are 'real' or 'trained', and 'brief' or 'layers'."
            )
        called = extract_model_from_parallel(model, keep_torch_compile=False)
        self.base: Any = unwrap_peft(called)
        self.routers = find_routers(self.base, site)
        self.tokens, self.detail, self.rules, self.group = tokens, detail, rules or Rules(), group
        self.out = None if out is None else Path(out)
        self._writer = RunWriter(self.out) if self.out is not None and _rank() == 0 else None
        self.recorder = RouterRecorder(called, self.base, self.routers, tokens)
        config: Any = self.base.config
        own = getattr(config.get_text_config(), "router_aux_loss_coef", None)
        self.coefficient, self.effective = own if coefficient is None else coefficient, effective
        self.alarms = Alarms(self._watched_routers(), self.rules)
        self.changed: list[float] = []  # by layer, between the last two snapshots
        self.said: list[str] = []
        self.steps, self.total = 0, 0  # optimizer steps, and tokens of those that are reported
        self._window: list[tuple[int, Tensor]] = []  # of each step that is not settled: counts (L, E + 1)
        self._sums = torch.zeros_like(self.recorder.counters["train"].sums)
        self._aux = torch.zeros_like(self.recorder.aux)
        self._settled = Settled()
        self._gradients: dict[str, dict[int, Tensor | int]] = {}  # by figure and row
        self._start, self._begun = 0, False
        self._empty, self._why = 0, list[str]()  # steps in which nothing was counted, and why
        self._before: RoutingTrace | None = None
        if not any(parameter.requires_grad for place in self._places() for parameter in place.parameters()):
            self.say("The routers are frozen: their weights are not trained. What they are given still changes.")

    def __enter__(self) -> "RoutingHealth":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching. The model is as it was."""
        self.recorder.close()

    def step(self, step: int | None = None) -> None:
        """After each optimizer step: all its micro-batches together. Waits for nothing.

        step   its number; default: one more than before.
        """
        self.steps = self.steps + 1 if step is None else step
        counts, sums, aux = self.recorder.take("train")
        self._window.append((self.steps, counts.to(torch.int32)))
        self._sums += sums
        self._aux += aux
        if (why := self.recorder.why_nothing()) and why not in self._why:
            self._why.append(why)
        if len(self._window) >= MOST_STEPS:
            self.settle()

    def gradients(self) -> None:
        """After backward and before zero_grad: note each router's gradient, and experts that have none."""
        if all(parameter.grad is None for parameter in self.base.parameters()):
            return
        for index, (router, place) in enumerate(zip(self.routers, self._places(), strict=True)):
            row = self.recorder.first_row(index)
            if norms := [_whole(p.grad.norm()) for p in place.parameters() if p.grad is not None]:
                self._gradients.setdefault("router_grad_norm", {})[row] = torch.stack(norms).norm()
            trained = [p for part in router.experts.values() for p in part.parameters() if p.requires_grad]
            by_expert = list(_gradients_by_expert(router))
            if by_expert or (trained and all(p.grad is None for p in trained)):
                none = (torch.stack(by_expert) == 0).all(dim=0).sum() if by_expert else _with_weights(router)
                self._gradients.setdefault("experts_without_grad", {})[row] = none

    def report(self, loss: float | Tensor | None = None, *, includes_aux: bool = False) -> dict[str, float]:
        """Call on every rank. When a log is due: figures for a tracker, a line of the history, and alarms in the log.

        loss           to stand with them in the history. Without a step since the last report: {}.
        includes_aux   True if `loss` is a mean over these steps with the aux loss in it, as Trainer's is: charts then
                       draw the loss without that part too.
        """
        self.settle()
        if not self._settled.steps:
            return {}
        seen, self._settled = self._settled, Settled()
        self.total += seen.tokens
        rows = layer_metrics(
            seen.counts[:, :-1], seen.counts[:, -1], seen.sums, self.recorder.layers, self.recorder.num_experts
        )
        for name, by_row in self._gradients.items():
            for row, value in by_row.items():
                rows[row][name] = float(value)
        self._gradients = {}
        self._check(seen, rows)
        events = self.alarms.judge(self._figures_of_log(seen, rows))
        dead = [self.alarms.dead_of(row) for row in range(len(rows))]
        figures = log_metrics(
            rows,
            self.detail,
            **_changes(self.changed),
            dead_experts=sum(map(len, dead)),
            tokens=self.total,
            alarms=len(self.alarms.on),
            aux_loss_of_model=seen.aux_loss,
            aux_coefficient=None if seen.aux_loss is None else self.coefficient,
        )
        if (writer := self._begin()) is not None:
            line: dict[str, Any] = {
                "step": self.steps,
                "steps": seen.steps,
                "tokens": self.total,
                "loss": _number(loss),
            }
            line |= {"aux_loss": seen.aux_loss, "aux_coefficient": self.coefficient}
            line |= {"aux_in_loss": self._aux_in_loss(seen) if includes_aux else None}
            line |= {"score_function": self.recorder.function, "on": len(self.alarms.on), "alarms": events}
            writer.log(line, rows, dead)
        for event in events if _rank() == 0 else ():
            log.warning("%s", event["says"])
        self.recorder.retry_score_function()
        self.changed, self.recorder.lossless = [], 0
        return figures

    def settle(self) -> None:
        """Sum what is pending over all ranks, on every rank: before `state_dict` is asked for on one of them."""
        if not self._window:
            return
        steps, parts = zip(*self._window, strict=True)
        counts, sums, aux = self._sum_over_ranks(torch.stack(parts).long(), self._sums, self._aux)
        self.alarms.follow(steps, counts[..., :-1])
        self._empty += int((counts[..., -1].max(axis=1) == 0).sum())
        self._settled.add(len(steps), counts.sum(axis=0), sums, aux)
        self._window = []
        self._sums.zero_()
        self._aux.zero_()

    def evaluation(self) -> dict[str, float]:
        """Return the figures of the forwards in evaluation since the last call, on every rank; {} without any.

        They never mix with those of training.
        """
        counts, sums = self._sum_over_ranks(*self.recorder.take("eval"))
        if not counts.any():
            return {}
        rows = layer_metrics(counts[:, :-1], counts[:, -1], sums, self.recorder.layers, self.recorder.num_experts)
        if (writer := self._begin()) is not None:
            writer.evaluation(self.steps, rows)
        return {f"eval_{name}": value for name, value in log_metrics(rows, self.detail).items()}

    def snapshot(self, tokenizer: PreTrainedTokenizerBase, probe: Sequence[tuple[str, str]]) -> RoutingTrace:
        """Trace (label, text) pairs by the model as it is now, write that to `out` and return it. Call on every rank.

        Nothing of it is counted, and modes, random state and autocast are as before. `report` then says how much of the
        routing has changed since the snapshot before.
        """
        self.recorder.now.muted = True
        try:
            trace = snapshot_of(self.base, tokenizer, probe, self._name, self.steps)
        finally:
            self.recorder.now.muted = False
        before, self._before = self._before, trace
        self.changed = [] if before is None else _changed_shares(before, trace)
        self.settle()
        tokens = self.total + self._settled.tokens
        if (writer := self._begin()) is not None:
            writer.snapshot(self.steps, tokens, self.changed, trace)
        return trace

    def say(self, fact: str) -> None:
        """Report a fact that is not an alarm: once, and in the line that begins the run or goes on with it."""
        if fact not in self.said:
            self.said.append(fact)
            if self._writer is not None and self._begun:
                self._writer.fact(fact)
            if _rank() == 0:
                log.warning("%s", fact)

    def say_what_failed(self) -> None:
        """Report errors of moeviz itself, which end no training."""
        for what in self.recorder.failed:
            self.say(
                f"moeviz failed ({what}). The training goes on, and some of its figures are missing. Please report it."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON: accelerate's `register_for_checkpointing` takes this object.

        With several ranks, call `settle` on all of them before.
        """
        if _world(self.group) == 1:
            self.settle()
        alarms, pending = self.alarms.state_dict(), self._settled.as_json()
        kept: dict[str, Any] = {"steps": self.steps, "total": self.total, "pending": pending, "alarms": alarms}
        return kept | {"said": self.said, "routers": sample_of(self._places())}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Go on from a checkpoint, after the model has. Logs after it do not count any more.

        Reports routers that are not those that the checkpoint was saved with.
        """
        self.steps = self._start = kept["steps"]
        self.total, self._begun = kept["total"], False
        self._settled, self.said = Settled.of_json(kept["pending"]), [*kept["said"]]
        self.alarms.load_state_dict(kept["alarms"])
        if others := routers_differ(kept["routers"], sample_of(self._places())):
            where = "layer" if len(others) == 1 else "layers"
            layers = listed([self.recorder.layers[self.recorder.first_row(at)] for at in others], 8)
            self.say(
                f"Routers are not those that the checkpoint was saved with, in {where} {layers}: they were not loaded. "
                "transformers' Trainer leaves out routers and experts of some models. Open the model with "
                "from_pretrained(checkpoint) before you resume."
            )

    def start_at(self, step: int) -> None:
        """Go on from a step of which moeviz has no state: tokens are counted from there."""
        self.steps = self._start = step
        self.alarms.since[:] = step + 1
        self.say(f"The run goes on from step {step}, of which moeviz has no state: tokens are counted from there.")

    def _begin(self) -> RunWriter | None:
        """Return the writer, after the first line of the run; None if nobody writes."""
        if self._writer is not None and not self._begun:
            self._begun = True
            watched = self.alarms.watched
            facts: dict[str, Any] = {"model": self._name, "layers": watched.layers, "num_experts": watched.num_experts}
            facts |= {"top_k": watched.top_k, "counted": self.tokens, "has_aux": watched.has_aux}
            facts |= {"aux_coefficient": self.coefficient, "aux_effective": self.effective}
            self._writer.begin(facts | {"rules": as_json(self.rules), "said": self.said}, self._start)
        return self._writer

    @property
    def _name(self) -> str:
        return getattr(self.base.config, "name_or_path", "") or type(self.base).__name__

    def _watched_routers(self) -> Watched:
        home, config = sys.modules[type(self.base).__module__], self.base.config.get_text_config()
        has_aux = hasattr(home, "load_balancing_loss_func") and hasattr(config, "router_aux_loss_coef")
        top_k = max(router.top_k for router in self.routers)
        return Watched(self.recorder.layers, self.recorder.num_experts, top_k, has_aux)

    def _figures_of_log(self, seen: "Settled", rows: list[dict[str, Any]]) -> LogFigures:
        computed = seen.aux_loss is not None
        counts, low = seen.counts[:, :-1], self.recorder.low_precision
        return LogFigures(self.steps, counts, rows, self.total, computed, self.coefficient, low)

    def _aux_in_loss(self, seen: "Settled") -> float | None:
        """Return the part of the loss that is the aux loss; None if moeviz cannot know."""
        if self.recorder.lossless or self.base.config.is_encoder_decoder:  # these add one that they do not return
            return None
        if seen.aux_loss is None:
            return 0.0
        coefficient = self.coefficient if self.effective is None else self.effective
        return None if coefficient is None else coefficient * seen.aux_loss

    def _sum_over_ranks(self, *tensors: Tensor) -> list[np.ndarray]:
        """Sum over all ranks. Only sums are reduced, never ratios."""
        if _world(self.group) > 1:
            tensors = tuple(tensor.clone() for tensor in tensors)
            for tensor in tensors:
                dist.all_reduce(tensor, group=self.group)
        return [tensor.cpu().numpy() for tensor in tensors]

    def _check(self, seen: "Settled", rows: list[dict[str, Any]]) -> None:
        """Report, once, what may make counts differ from what the experts received."""
        tokens = seen.counts[:, -1]
        if tokens.min() != tokens.max():
            least, most = (self.recorder.layers[int(at)] for at in (tokens.argmin(), tokens.argmax()))
            self.say(
                f"The router of layer {least} answered for {tokens.min():,} tokens and that of layer {most} for "
                f"{tokens.max():,}: something bypasses it, as fused kernels and dropped layers do."
            )
        self.say_what_failed()
        if self._empty and not self.recorder.failed:
            for why in self._why or ["the attention mask or the labels leave out every one."]:
                self.say(f"In a step, no token was counted: {why}")
        self._empty, self._why = 0, []
        whose = [(rows[self.recorder.first_row(index)], router) for index, router in enumerate(self.routers)]
        idle = [row["layer"] for row, router in whose if row.get("experts_without_grad") == _with_weights(router)]
        if idle:
            where = "layer" if len(idle) == 1 else "layers"
            self.say(
                f"No expert of {where} {listed(idle, 8)} had a gradient in a step that was logged, though their "
                "weights are to be trained: an adapter or a fused kernel may bypass them, or the loss was 0."
            )
        if self.recorder.unmasked:
            self.say("The attention mask does not fit the rows of the routers, so padding may be counted.")
        if self.recorder.unlabelled:
            self.say("Forwards without labels count every token of the attention mask, though tokens='trained'.")
        if why := later_hook(self.recorder):
            self.say(why)

    def _places(self) -> list[nn.Module]:
        """List each router's module, with the parameters of an adapter in addition to its own."""
        return [self.base.get_submodule(unwrapped_path(router.path)) for router in self.routers]


@dataclass(slots=True)
class Settled:
    """Sums over all ranks of the steps since the last log."""

    steps: int = 0
    counts: Any = 0  # (L, E + 1)
    sums: Any = 0
    aux: Any = 0  # (2,)

    @property
    def tokens(self) -> int:
        """Tokens of the layer that has most: they are the same, unless something bypasses a router."""
        return int(self.counts[:, -1].max()) if self.steps else 0

    @property
    def aux_loss(self) -> float | None:
        """The aux loss as the model computed it, mean over forwards."""
        return float(self.aux[0] / self.aux[1]) if self.steps and self.aux[1] else None

    def add(self, steps: int, counts: np.ndarray, sums: np.ndarray, aux: np.ndarray) -> None:
        """Add more steps."""
        self.steps += steps
        self.counts, self.sums, self.aux = self.counts + counts, self.sums + sums, self.aux + aux

    def as_json(self) -> dict[str, Any] | None:
        """For a checkpoint."""
        parts = {name: getattr(self, name).tolist() for name in ("counts", "sums", "aux")} if self.steps else {}
        return {"steps": self.steps, **parts} if self.steps else None

    @classmethod
    def of_json(cls, kept: dict[str, Any] | None) -> "Settled":
        """Restore the object from what `as_json` made of it."""
        return cls() if not kept else cls(kept["steps"], *(np.array(kept[name]) for name in ("counts", "sums", "aux")))


def _changed_shares(before: RoutingTrace, trace: RoutingTrace) -> list[float]:
    """Return 1 - router saturation of each layer."""
    frame = router_saturation(before, trace).drop_duplicates("layer")
    return [1 - float(value) for value in frame["saturation"]]


def _changes(changed: list[float]) -> dict[str, float]:
    return {"changed/mean": float(np.mean(changed)), "changed/worst": max(changed)} if changed else {}


def _gradients_by_expert(router: Router) -> Iterator[Tensor]:
    """Compute the norm of each expert's gradient (E,), over the parameters that hold all experts or their adapter."""
    size = _with_weights(router)
    for part in (part for experts in router.experts.values() for part in experts.modules()):
        grads = [parameter.grad for parameter in part.parameters(recurse=False)]
        if type(part).__name__ == ADAPTED and part.num_experts == size:  # LoRA's factors, (E r, in) and (out, r E)
            down, up = ([layer.weight.grad for layer in getattr(part, name).values()] for name in ("lora_A", "lora_B"))
            grads += [None if grad is None else grad.unflatten(0, (size, -1)) for grad in down]
            grads += [None if grad is None else grad.unflatten(1, (-1, size)).movedim(-1, 0) for grad in up]
        for grad in grads:
            if grad is not None and grad.dim() == 3 and len(grad) == size:
                yield _whole(grad.flatten(1).norm(dim=1))


def _with_weights(router: Router) -> int:
    return router.num_experts - router.zero_experts


def _whole(values: Tensor) -> Tensor:
    whole: Tensor = values.full_tensor() if hasattr(values, "full_tensor") else values
    return whole


def _number(loss: float | Tensor | None) -> float | None:
    return None if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world(group: Any) -> int:
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
