"""A run that a visitor asks a model for: a table of what an address says of it, and what the library is asked for."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from moeviz.embedded.own_models import OWN_MODELS
from moeviz.errors import CaptureError
from moeviz.text import quoted
from moeviz_app import settings
from moeviz_app.jobs.model_catalog import LoadOptions

if TYPE_CHECKING:
    from moeviz.capture.run.images import PromptImage
    from moeviz.capture.run.request import CaptureRequest

KERNELS_CHOICES = ("on", "off")
DECODING_CHOICES = ("checkpoint",)
LOAD_CHOICES = {
    "dtype": ("float32", "bfloat16", "float16"),
    "device_map": ("auto", "cpu", "cuda:0", "cuda:1", "cuda:2", "cuda:3"),
}
LONGEST = 1500  # characters of the texts in an address
MOST_MUTED = 64  # experts of one run
MUTED = re.compile(r"\d{1,6}\.\d{1,6}(,\d{1,6}\.\d{1,6})*", re.ASCII)
OWN_TEMPERATURE = 0.8  # of the embedded models: they repeat themselves where the likeliest token is always taken
Read = Callable[[str], Any]
Muted = tuple[tuple[int, int], ...]  # (layer, expert) each


def usual_temperature(model: str) -> float:
    """Return the temperature at which a model writes by default."""
    return OWN_TEMPERATURE if model in OWN_MODELS else 0.0


def number_in(text: str | None) -> int | None:
    """Return the number in a part of an address; None for anything else."""
    return int(text) if text is not None and text.isdecimal() and len(text) <= 10 else None


def _new_tokens(text: str) -> int:
    return min(number_in(text) or 0, settings.SETTINGS.max_new_tokens)


def _temperature(text: str) -> float:
    is_number = text.replace(".", "", 1).isdecimal() and len(text) <= 10
    return min(float(text), settings.HIGHEST_TEMPERATURE) if is_number else 0.0


def _seed(text: str) -> int:
    return min(number_in(text) or 0, settings.HIGHEST_SEED)


def _prompt(text: str) -> str:
    return text[: settings.SETTINGS.max_prompt_chars]


def muted_experts(experts: Iterable[tuple[int, int]]) -> Muted:
    """Return experts to mute, each once and in order, as a run holds them. Raises `CaptureError` for too many."""
    found = tuple(sorted(set(experts)))
    if len(found) > MOST_MUTED:
        raise CaptureError(f"{len(found):,} experts are muted, and at most {MOST_MUTED} can be. Mute fewer.")
    return found


def _muted_in(text: str) -> Muted:
    """Read experts from an address: `2.4,1.6` is expert 4 of layer 2 and expert 6 of layer 1."""
    if len(text) > 14 * MOST_MUTED or not MUTED.fullmatch(text):
        raise CaptureError(
            f"The address mutes {quoted(text, 40)}. It must name layers and experts, as in mute=2.4,1.6 for expert 4 "
            f"of layer 2 and expert 6 of layer 1, and at most {MOST_MUTED} of them."
        )
    pairs = (pair.split(".") for pair in text.split(","))
    return muted_experts((int(layer), int(expert)) for layer, expert in pairs)


def _muted_as_text(muted: Muted) -> str:
    return ",".join(f"{layer}.{expert}" for layer, expert in muted)


def _one_of(choices: tuple[str, ...]) -> Read:
    return {choice: choice for choice in choices}.get


def _row(read: Read, usual: Any = None, write: Callable[[Any], str] = str) -> Any:
    """One field of an address: how its text is read, within what this deployment allows; what holds without it."""
    return field(default=usual, metadata={"read": read, "write": write})


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run, and everything that its trace depends on. A field has the same name in an address.

    It needs nothing of what runs models, and holds what a link asks for: `request` says what is wrong with it.
    """

    prompt: str
    model: str
    new_tokens: int = _row(_new_tokens, 0)
    temperature: float = _row(_temperature, 0.0)
    seed: int = _row(_seed, 0)
    dtype: str | None = _row(_one_of(LOAD_CHOICES["dtype"]))
    device_map: str | None = _row(_one_of(LOAD_CHOICES["device_map"]))
    site: str | None = _row(lambda text: text or None)  # which routers, in a model with several kinds
    kernels: str | None = _row(_one_of(KERNELS_CHOICES))  # None: those on a GPU, if they know the routers
    decoding: str | None = _row(_one_of(DECODING_CHOICES))  # None: only by temperature and seed
    chat: bool = _row(lambda text: text == str(True), False)  # sent as a user's turn, by the tokenizer's chat template
    system: str | None = _row(lambda text: _prompt(text) or None)  # of a chat: the system prompt
    mute: tuple[tuple[int, int], ...] = _row(_muted_in, (), _muted_as_text)  # not to be chosen, while generating too
    images: tuple[str, ...] = ()  # SHA-256 of each; the visit has their bytes, and an address has neither

    @property
    def how(self) -> LoadOptions:
        """Options for loading the run's model."""
        return LoadOptions(self.dtype, self.device_map)

    @property
    def fits_an_address(self) -> bool:
        """Return whether every browser and server takes an address with its texts."""
        return not self.images and len(self.prompt) + len(self.system or "") <= LONGEST

    def request(self, images: "tuple[PromptImage, ...]" = ()) -> "CaptureRequest":
        """Return what the library is asked for, with the images as they were read; imports what runs models.

        Raises what a request is refused for.
        """
        from moeviz.capture.interventions.mute import Mute
        from moeviz.capture.run.decoding import CHECKPOINT, Decoding, Sampling
        from moeviz.capture.run.request import AUTO, CaptureRequest

        by_itself = self.decoding is None
        muted = {layer: tuple(expert for at, expert in self.mute if at == layer) for layer, _ in self.mute}
        return CaptureRequest(
            (self.prompt,),
            self.new_tokens,
            Sampling(temperature=self.temperature if by_itself else 0.0, seed=self.seed),
            Decoding() if by_itself else CHECKPOINT,
            kernels="auto" if self.kernels is None else self.kernels == "on",
            intervention=Mute(muted) if muted else None,
            site=self.site,
            chat=self.chat,
            system=self.system,
            next_tokens=AUTO,
            images=images,
        )

    def parameters(self) -> dict[str, str]:
        """Return the run as the query of an address; defaults stay out."""
        given = {name: WRITE[name](value) for name in READ if (value := getattr(self, name))}
        images = {"images": str(len(self.images))} if self.images else {}  # which nothing reads: it is another run
        return {"prompt": self.prompt, "model": self.model} | given | images


READ: dict[str, Read] = {row.name: row.metadata["read"] for row in fields(RunRequest) if row.metadata}
WRITE = {row.name: row.metadata["write"] for row in fields(RunRequest) if row.metadata}


def run_from_query(query: Mapping[str, str]) -> RunRequest:
    """The run that an address asks for, within what this deployment allows. Raises `CaptureError` for a bad `mute`."""
    given = {name: read(query[name]) for name, read in READ.items() if name in query}
    return RunRequest(_prompt(query["prompt"]), query.get("model", settings.SETTINGS.models[0]), **given)
