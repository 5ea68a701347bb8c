"""The models in memory: each is loaded once, and those on one device share its memory. No torch here.

If another one needs memory, the one that was used least lately goes first; one that is at work stays. Two visitors who
ask for the same model at once wait for the same load, and one load goes on at a time, so that what is free is known.
"""

import atexit
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moeviz.errors import CaptureError
from moeviz_app.jobs.errors import as_sentence
from moeviz_app.server.metrics import count, gauge

SECONDS_FROZEN = 600.0

if TYPE_CHECKING:
    from moeviz.capture.engines.engine import EngineModel
    from moeviz.capture.models.load import LoadedModel

    Opened = LoadedModel | EngineModel


@dataclass(frozen=True, slots=True)
class ModelKey:
    """One model as it lies in memory: what it is called, in which dtype, and on which device."""

    name: str
    dtype: str
    device: str
    how: Any = field(default=None, compare=False)  # as it was asked for, which makes no difference


@dataclass(slots=True, eq=False)
class _Held:
    loaded: "Opened"
    bytes: int
    users: int = 0


@dataclass(frozen=True, slots=True)
class ModelBackend:
    """The functions that load models and measure memory, and a budget in bytes."""

    load: Callable[[ModelKey], "Opened"]
    needed: Callable[[ModelKey], int]  # bytes
    free: Callable[[str], int | None]  # bytes on a device; None: the system does not say
    let_go: Callable[[], Any]  # give memory that nobody holds back to the system
    budget: int | None = None  # bytes for models on each device; None: what is free there


# The identities of weights, and the models that were loaded with them in the process that this one was forked from.
loaded_before_fork: dict[str, tuple[str | None, "Opened"]] = {}


class ModelCache:
    """The models in memory, the least lately used first."""

    def __init__(self, ways: ModelBackend) -> None:
        self.ways = ways
        self._held: dict[ModelKey, _Held] = {}
        self._coming: dict[ModelKey, Future[Any]] = {}
        self._guard, self._loading = threading.Lock(), threading.Lock()

    def get(self, wanted: ModelKey) -> "Opened":
        """Return a model, loaded if need be. Raises what loading raises, and `CaptureError` where memory is lacking."""
        with self._guard:
            if wanted in self._held:
                return self._touched(wanted).loaded
            coming, mine = self._coming.get(wanted), Future()
            if coming is None:
                self._coming[wanted] = mine
        return self._bring(wanted, mine) if coming is None else coming.result()

    def peek(self, wanted: ModelKey) -> "Opened | None":
        """Return a model if it is in memory, else None."""
        with self._guard:
            held = self._held.get(wanted)
        return None if held is None else held.loaded

    @contextmanager
    def at_work(self, wanted: ModelKey) -> Iterator["Opened"]:
        """Keep a model in memory inside the block."""
        held = self._in_use(wanted)
        try:
            yield held.loaded
        finally:
            with self._guard:
                held.users -= 1

    def forget(self) -> None:
        """Let all models go that nobody uses."""
        with self._guard:
            for wanted in [wanted for wanted, held in self._held.items() if not held.users]:
                self._drop(wanted)

    def _in_use(self, wanted: ModelKey) -> _Held:
        while True:
            self.get(wanted)
            with self._guard:
                if wanted in self._held:  # else it has gone in between
                    held = self._touched(wanted)
                    held.users += 1
                    return held

    def _touched(self, wanted: ModelKey) -> _Held:
        held = self._held[wanted] = self._held.pop(wanted)
        return held

    def _bring(self, wanted: ModelKey, coming: "Future[Any]") -> "Opened":
        try:
            with self._loading:
                loaded = self._load(wanted)
        except BaseException as error:
            said = as_sentence(error, f"while {wanted.name} was being loaded")
            coming.set_exception(said)
            count("loads", end="failed")
            raise said from None
        finally:
            with self._guard:
                del self._coming[wanted]
        coming.set_result(loaded)
        count("loads", end="done")
        return loaded

    def _load(self, wanted: ModelKey) -> "Opened":
        needed = self.ways.needed(wanted)
        self._make_room(wanted, needed)
        loaded = self.ways.load(wanted)
        with self._guard:
            self._held[wanted] = _Held(loaded, needed)
            self._tell()
        return loaded

    def _make_room(self, wanted: ModelKey, needed: int) -> None:
        while (lacking := self._lacking(wanted.device, needed)) is not None:
            with self._guard:
                here = [one for one in self._held if one.device == wanted.device]
                idle = next((one for one in here if not self._held[one].users), None)
                if idle is not None:
                    self._drop(idle)
            if idle is None:
                raise CaptureError(f"{wanted.name} needs about {_gb(needed)} in {wanted.dtype}, and {lacking}.")
            count("evictions", what="model")
            self.ways.let_go()

    def _lacking(self, device: str, needed: int) -> str | None:
        """Return why this many bytes do not fit on a device, and what to do; None if they fit."""
        with self._guard:
            held = [one for wanted, one in self._held.items() if wanted.device == device]
        used, budget, free = sum(one.bytes for one in held), self.ways.budget, self.ways.free(device)
        smaller = "Choose a smaller model, or a dtype with fewer bits"
        if budget is not None and used + needed > budget:
            has = f"models may take {_gb(budget)} here"
            return f"{has}, of which others at work have {_gb(used)}. Try again later" if used else f"{has}. {smaller}"
        if free is not None and needed > free:
            return (
                f"{_gb(free)} are free here. {smaller}, or a machine with more memory; `moeviz params` shows which "
                "cards can hold it"
            )
        return None

    def _drop(self, wanted: ModelKey) -> None:
        del self._held[wanted]
        self._tell()

    def _tell(self) -> None:
        gauge("models", len(self._held))
        gauge("model_bytes", sum(held.bytes for held in self._held.values()))


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


class Garbage:
    """Python's search for garbage among all that was imported: rare, and not after every script.

    Streamlit collects garbage after every script run, and a walk over all that torch and models are made of takes
    0.14 s. What is frozen is left out of that walk; but so is what a visitor had open at that moment, which would then
    never be found when it is garbage. So all is thawed, looked through and frozen again, now and then when nobody
    waits.

    A forked process shares what was frozen before, as long as nobody writes to it, and a walk does. There it is
    thawed only for a model that goes: the price is what is open when the first model comes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, forked: bool = False) -> None:
        self._clock, self._guard, self._forked = clock, threading.Lock(), forked
        self._since: float | None = None

    def freeze(self, thaw: bool = False) -> None:
        """Collect what is garbage, and leave the rest out from now on; with `thaw`, also what was left out before."""
        with self._guard:
            if self._since is None and not self._forked:
                atexit.register(gc.unfreeze)  # what is frozen is not freed at the end, and some libraries complain
            if thaw or not self._forked:
                gc.unfreeze()
            gc.collect()
            if thaw or not self._forked or self._since is None:
                gc.freeze()
            self._since = self._clock()

    def look_again(self) -> None:
        """Freeze anew where the last time is long ago: what was frozen alive and is garbage now is freed."""
        if self._since is not None and self._clock() > self._since + SECONDS_FROZEN:
            self.freeze()
