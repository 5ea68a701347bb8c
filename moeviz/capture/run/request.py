"""All settings of a capture in one value: checked once, when it is made, and passed on as a whole."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from moeviz.capture.interventions.intervention import Intervention
from moeviz.capture.interventions.replay import Replay
from moeviz.capture.run.chat import Conversation, Prompt, checked, conversation_of
from moeviz.capture.run.decoding import (
    Decoding,
    HowToDecode,
    Sampling,
    check_can_grow,
    check_new_tokens,
    check_settings,
)
from moeviz.capture.run.images import PromptImage
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.text import cut

AUTO: Literal["auto"] = "auto"
Kernels = bool | Literal["auto"]


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """Prompts, generation, interventions and kind of recording, as `moeviz.trace` describes them; valid by itself.

    `prepare` and the engines check whether a model can do it.

    Raises `InvalidPrompt` for an empty prompt, a number of tokens that nobody can generate, or a system prompt without
    a chat, and `CaptureError` for settings that make no sense.

    >>> CaptureRequest(("Il fait froid.",), max_new_tokens=2).sampling
    Sampling(temperature=0.0, top_k=None, top_p=None, seed=0)
    """

    prompts: tuple[Prompt, ...]
    max_new_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    decoding: HowToDecode = field(default_factory=Decoding)
    kernels: Kernels = "auto"
    intervention: Intervention | None = None
    keep_logits: bool = True
    site: str | None = None
    chat: bool = False
    system: str | None = None
    next_tokens: bool | Literal["auto"] = False  # "auto": if the model has them, with a lens if that is cheap
    outputs: bool = False  # of the experts, in figures
    token_ids: tuple[tuple[int, ...], ...] | None = None  # of prompts, instead of their texts
    images: tuple[PromptImage, ...] = ()  # of the one prompt

    def __post_init__(self) -> None:
        check_new_tokens(self.max_new_tokens)
        check_settings(self.sampling, self.decoding)
        if self.system is not None and not self.chat:
            raise InvalidPrompt("A system prompt is part of a chat. Ask for a chat too, or leave the prompt out.")
        given = self.prompts if self.token_ids is None else self.token_ids
        if not given or not all(given):
            raise InvalidPrompt("The prompt is empty. Type some text for the model to read.")
        if any(isinstance(one, tuple) for one in self.prompts) and (not self.chat or self.system is not None):
            raise InvalidPrompt("A conversation is read as a chat, with its own system prompt. Ask for a chat only.")
        if self.images and (len(self.prompts) != 1 or len(self.texts) != 1 or self.token_ids is not None):
            raise InvalidPrompt(f"Images go with one text, and there are {len(given)}. Trace one text at a time.")
        if not isinstance(self.kernels, bool) and self.kernels != AUTO:
            raise CaptureError(f'kernels is {self.kernels!r}; it can be True, False or "auto".')
        if not isinstance(self.next_tokens, bool) and self.next_tokens != AUTO:
            raise CaptureError(f'next_tokens is {self.next_tokens!r}; it can be True, False or "auto".')
        if self.intervention is not None and not isinstance(self.intervention, Intervention):
            raise CaptureError(
                f"{self.intervention!r} is not something that routers can be given. Give Mute, Force, Bias, TopK, "
                "Swap or Replay."
            )
        if isinstance(self.intervention, Replay) and self.max_new_tokens:
            raise CaptureError("A trace is replayed while a prompt is read; generate no tokens (max_new_tokens=0).")

    @classmethod
    def of(cls, prompt: Prompt) -> "CaptureRequest":
        """Return the request to read one text as it is, or one conversation as a chat."""
        return cls((prompt,), chat=not isinstance(prompt, str))

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        """The messages of each prompt in a chat; none if texts are read as they are."""
        return tuple(conversation_of(prompt, self.system) for prompt in self.prompts) if self.chat else ()

    @property
    def texts(self) -> list[str]:
        """The prompts that are texts: all, unless it is a chat."""
        return [prompt for prompt in self.prompts if isinstance(prompt, str)]

    def check_can_grow(self) -> None:
        """Raise `CaptureError` for a request that cannot be streamed."""
        if isinstance(self.decoding, Decoding):
            check_can_grow(self.decoding.num_beams)


def prompts_of(prompts: str | Iterable[Any]) -> tuple[Prompt, ...]:
    """Return texts or conversations as a request holds them. Raises `InvalidPrompt` for anything else."""
    if hasattr(prompts, "tokenizer") or hasattr(prompts, "forward"):
        raise InvalidPrompt('The model comes first, and then the text, as in moeviz.trace(model, "Il fait froid.").')
    found = (prompts,) if isinstance(prompts, str) or not isinstance(prompts, Iterable) else tuple(prompts)
    if found and all(isinstance(one, dict) for one in found):
        return (checked(found),)
    if not all(isinstance(one, str | list | tuple) for one in found):
        raise InvalidPrompt(
            f"The prompt is {cut(repr(prompts), 60)}; it must be a text, or a list of texts. Decode token ids first."
        )
    return tuple(one if isinstance(one, str) else checked(one) for one in found)
