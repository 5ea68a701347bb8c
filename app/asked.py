"""What a visitor asks a model for."""

from dataclasses import dataclass

from moeviz_app.shared import How

USUAL_TEMPERATURE = {"embedded": 0.8}  # it repeats itself where the likeliest token is always taken


def usual_temperature(model: str) -> float:
    """At which temperature a model writes unless asked otherwise."""
    return USUAL_TEMPERATURE.get(model, 0.0)


@dataclass(frozen=True, slots=True)
class Run:
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
    def how(self) -> How:
        """How the model is opened."""
        return How(self.dtype, self.device_map)

    def parameters(self) -> dict[str, str]:
        """As the query of an address; what is as it always is stays out."""
        more = ("new_tokens", "temperature", "seed", "dtype", "device_map", "site", "kernels", "decoding")
        more += ("chat", "system")
        given = {name: str(value) for name in more if (value := getattr(self, name))}
        return {"prompt": self.prompt, "model": self.model} | given
