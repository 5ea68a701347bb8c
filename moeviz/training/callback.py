"""watch and RoutingCallback: routing health in transformers' Trainer, and in those of TRL."""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import currentframe
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler, ExportableState

from moeviz.errors import MoevizError
from moeviz.training.layer_metrics import Detail
from moeviz.training.recorded.rules import Rules, as_json, of_json
from moeviz.training.router_hooks import Tokens
from moeviz.training.routing_health import RoutingHealth

FRAMES = 8  # up to the handler that calls a callback
Event = Callable[..., Any]


def goes_on(event: Event) -> Event:
    """Wrap an event of a callback: an error in it is reported, and the training goes on."""

    @wraps(event)
    def safe(callback: "RoutingCallback", args: Any, state: Any, control: TrainerControl, **given: Any) -> Any:
        if (health := callback.health) is None:  # the training has not begun
            return control
        try:
            return event(callback, args, state, control, **given)
        except Exception as error:
            health.recorder.fail(error)
            health.say_what_failed()
            return control

    return safe


def watch(trainer: Trainer, out: str | Path | None = None, **options: Any) -> "RoutingCallback":
    """Watch the routing of a trainer: transformers' Trainer, or TRL's SFTTrainer, GRPOTrainer, DPOTrainer.

        watch(trainer, out="run/routing", probe=[("French", "Il fait froid à Paris.")])
        trainer.train()

    Its numbers go where `report_to` sends the loss; alarms go to the log, and everything to `out`. Options are those of
    `RoutingCallback`.
    """
    callback = RoutingCallback(out, **options)
    callback.tokenizer = callback.tokenizer or getattr(trainer, "processing_class", None)
    callback._check_tokenizer()
    _lead(trainer.callback_handler, callback)
    return callback


class RoutingCallback(TrainerCallback, ExportableState):
    """`watch` for trainers that only take callbacks: `Trainer(…, callbacks=[RoutingCallback("run/routing")])`.

    out             the folder of the run. None: numbers go only to the trackers.
    probe           (label, text) pairs that are traced while the model trains: at steps 0, 1, 2, 4, 8 …, or every
                    `snapshot_steps`.
    tokenizer       for the probe; default: the trainer's.
    stop            True ends the run on an alarm, after its log.
    rules           thresholds of the alarms, and the warm-up; for a run from scratch, `Rules.from_scratch()`.
    tokens, detail, site, coefficient   as for `RoutingHealth`.

    `health` is the `RoutingHealth` of the run, once it has begun.
    """

    def __init__(
        self,
        out: str | Path | None = None,
        *,
        probe: Sequence[tuple[str, str]] | None = None,
        snapshot_steps: int | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        detail: Detail | str = "brief",
        tokens: Tokens | str = "real",
        stop: bool = False,
        rules: Rules | dict[str, Any] | None = None,
        site: str | None = None,
        coefficient: float | None = None,
    ) -> None:
        rules = of_json(rules) if isinstance(rules, dict) else rules or Rules()
        self.out, self.probe, self.snapshot_steps = out, [(label, text) for label, text in probe or []], snapshot_steps
        self.tokenizer, self.stop = tokenizer, stop
        self.options: dict[str, Any] = {
            "detail": detail,
            "tokens": tokens,
            "rules": rules,
            "site": site,
            "coefficient": coefficient,
        }
        self.health: RoutingHealth | None = None
        self.kept: dict[str, Any] | None = None  # by a checkpoint

    def on_init_end(self, *_: Any, **__: Any) -> None:
        """Move this to the front: `logs` goes from callback to callback, and trackers come before the user's."""
        _lead_who_calls(currentframe(), self)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Begin, or go on from a checkpoint, which may have put another one of this class at the end of the list."""
        _lead_who_calls(currentframe(), self)
        if self.health is not None:
            self.health.close()
        assert model is not None  # Trainer gives it
        if self.options["coefficient"] is None:  # TRL's trainers have their own
            self.options["coefficient"] = getattr(args, "router_aux_loss_coef", None)
        self.health = RoutingHealth(model, self.out, **self.options)
        self._effective(args)
        self.tokenizer = self.tokenizer or processing_class
        self._check_tokenizer()
        if state.global_step:
            self._resume(state)
        else:
            self._snapshot(0)
        kept: Any = state.stateful_callbacks
        kept[type(self).__name__] = self.state()  # a checkpoint without this callback lacks it

    @goes_on
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Gradients of the step that is logged next."""
        if self.health is not None and (state.global_step + 1) % max(int(state.logging_steps or 1), 1) == 0:
            self.health.gradients()

    @goes_on
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Note that the optimizer has taken a step."""
        assert self.health is not None
        self.health.step(state.global_step)
        self._snapshot(state.global_step)
        due = state.save_steps and state.global_step % max(int(state.save_steps), 1) == 0
        if due or state.global_step >= state.max_steps:
            self.health.settle()  # on every rank, before one of them is asked for its state

    @goes_on
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> TrainerControl:
        """Return the figures of a log that is due; every rank comes here."""
        figures: dict[str, float] = {}
        if self.health is not None and logs is not None:
            if "loss" in logs:
                figures = self.health.report(logs["loss"], includes_aux=True)
            elif any(key.startswith("eval_") for key in logs):
                figures = self.health.evaluation()
            logs.update(figures)
            if state.log_history:
                state.log_history[-1].update(figures)
            if self.stop and self.health.alarms.on:
                control.should_training_stop = True
        return control

    @goes_on
    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A checkpoint may follow."""
        if self.health is not None:
            self.health.settle()

    on_evaluate = on_epoch_end

    @goes_on
    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write what came after the last log too."""
        if self.health is not None:
            self.health.report()
            self.health.close()

    def _check_tokenizer(self) -> None:
        """Raise `MoevizError` for a probe without a tokenizer: its texts could not be read."""
        if self.probe and self.tokenizer is None:
            raise MoevizError(
                "The probe's texts need a tokenizer, and the trainer has none. Give it: tokenizer=…, or "
                "Trainer(…, processing_class=tokenizer)."
            )

    def state(self) -> dict[str, Any]:
        """Return the options and counts for `trainer_state.json`."""
        options = {**self.options, "rules": as_json(self.options["rules"])}
        made = {"out": None if self.out is None else str(self.out), "probe": self.probe, "stop": self.stop}
        kept = None if self.health is None else self.health.state_dict()
        return {"args": made | {"snapshot_steps": self.snapshot_steps} | options, "attributes": {"kept": kept}}

    def _resume(self, state: TrainerState) -> None:
        """Resume from a checkpoint, which Trainer hands over only if it is asked to restore callbacks."""
        assert self.health is not None
        of_all: Any = state.stateful_callbacks
        saved = of_all.get(type(self).__name__)
        saved = saved[0] if isinstance(saved, list) and saved else saved
        kept = self.kept or (saved.get("attributes", {}).get("kept") if isinstance(saved, dict) else None)
        if kept and kept["steps"] == state.global_step:
            self.health.load_state_dict(kept)
        else:
            self.health.start_at(state.global_step)

    def _snapshot(self, step: int) -> None:
        due = step % self.snapshot_steps == 0 if self.snapshot_steps else step & (step - 1) == 0
        if self.probe and due and self.health is not None and self.tokenizer is not None:
            self.health.snapshot(self.tokenizer, self.probe)

    def _effective(self, args: TrainingArguments) -> None:
        """Correct the coefficient of the aux loss: Trainer divides only the language loss by tokens."""
        health = self.health
        assert health is not None
        watched = health.alarms.watched
        ranks = args.world_size if args.average_tokens_across_devices else 1
        times = args.gradient_accumulation_steps * ranks
        if (
            not watched.has_aux
            or not health.coefficient
            or times == 1
            or not type(args).__module__.startswith("transformers.")
        ):
            return
        health.effective = health.coefficient * times
        health.say(
            f"The aux loss of each of {times} micro-batches counts in full, while the language loss is divided by the "
            f"tokens of the step: the coefficient {health.coefficient:g} acts as {health.effective:g}."
        )


def _lead_who_calls(frame: FrameType | None, callback: TrainerCallback) -> None:
    """Move the callback to the front of the handler that calls it, if a frame within `FRAMES` belongs to one."""
    for _ in range(FRAMES):
        frame = frame.f_back if frame is not None else None
        handler = frame.f_locals.get("self") if frame is not None else None
        if isinstance(handler, CallbackHandler):
            _lead(handler, callback)
            return


def _lead(handler: CallbackHandler, callback: TrainerCallback) -> None:
    handler.callbacks = [callback, *(other for other in handler.callbacks if other is not callback)]
