"""What a visitor asks a model for, and how an address asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from moeviz_app import settings
from moeviz_app.jobs.model_catalog import LoadOptions

from moeviz.embedded.own_models import is_own

KERNELS_CHOICES = ("on", "off")
DECODING_CHOICES = ("checkpoint",)
LOAD_CHOICES = {
    "dtype": ("float32", "bfloat16", "float16"),
    "device_map": ("auto", "cpu", "cuda:0", "cuda:1", "cuda:2", "cuda:3"),
}


LONGEST = 1500  # characters of the texts in an address
OWN_TEMPERATURE = 0.8  # of the embedded models: they repeat themselves where the likeliest token is always taken


def usual_temperature(model: str) -> float:
    """At which temperature a model writes unless asked otherwise."""
    return OWN_TEMPERATURE if is_own(model) else 0.0


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run, and everything that its trace depends on."""

    prompt: str
    model: str
    new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    dtype: str | None = None
    device_map: str | None = None
    site: str | None = None  # which routers, in a model with several kinds
    kernels: str | None = None  # "on" or "off"; None: by kernels on a GPU, where they know the model's routers
    decoding: str | None = None  # "checkpoint": as its own settings say; None: by temperature and seed alone
    chat: bool = False  # sent as a user's turn, by the tokenizer's chat template
    system: str | None = None  # of a chat: the system prompt

    @property
    def how(self) -> LoadOptions:
        """How the model is opened."""
        return LoadOptions(self.dtype, self.device_map)

    @property
    def fits_an_address(self) -> bool:
        """Whether every browser and server takes an address with its texts."""
        return len(self.prompt) + len(self.system or "") <= LONGEST

    def parameters(self) -> dict[str, str]:
        """As the query of an address; what is as it always is stays out."""
        more = ("new_tokens", "temperature", "seed", "dtype", "device_map", "site", "kernels", "decoding")
        more += ("chat", "system")
        given = {name: str(value) for name in more if (value := getattr(self, name))}
        return {"prompt": self.prompt, "model": self.model} | given


def run_from_query(query: Mapping[str, str]) -> RunRequest:
    """The run that an address asks for, within what this deployment allows."""
    most = settings.SETTINGS
    return RunRequest(
        query["prompt"][: most.max_prompt_chars],
        query.get("model", most.models[0]),
        min(number_in(query.get("new_tokens")) or 0, most.max_new_tokens),
        min(_fraction(query.get("temperature")), settings.HIGHEST_TEMPERATURE),
        min(number_in(query.get("seed")) or 0, settings.HIGHEST_SEED),
        *(query[name] if query.get(name) in known else None for name, known in LOAD_CHOICES.items()),
        query.get("site") or None,
        query["kernels"] if query.get("kernels") in KERNELS_CHOICES else None,
        query["decoding"] if query.get("decoding") in DECODING_CHOICES else None,
        chat=query.get("chat") == str(True),
        system=query["system"][: most.max_prompt_chars] if query.get("system") else None,
    )


def number_in(text: str | None) -> int | None:
    """The number that a part of an address says; None where it says none."""
    return int(text) if text is not None and text.isdecimal() and len(text) <= 10 else None


def _fraction(text: str | None) -> float:
    return float(text) if text is not None and text.replace(".", "", 1).isdecimal() and len(text) <= 10 else 0.0
