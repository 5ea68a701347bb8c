"""How a token is drawn from the model's scores: by a generator of its own, so that what others draw does not matter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is sampled. The same seed, prompts and model give the same tokens.

    temperature  0 takes the likeliest token; from 1 on, unlikely ones come often.
    top_k        draw among this many likeliest tokens of the vocabulary only; it is not the router's top_k.
    top_p        draw among the likeliest tokens that hold this much probability together.
    seed         of the generator, which is the model's own: what others draw changes nothing.

    >>> Sampling(temperature=0.8, top_p=0.95, seed=1)
    Sampling(temperature=0.8, top_k=None, top_p=0.95, seed=1)
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


def sampling_processors(sampling: Sampling) -> LogitsProcessorList:
    """The steps after which the largest logit is the token to take; none where that is the likeliest."""
    if sampling.temperature == 0:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k is not None:
        steps.append(TopKLogitsWarper(int(sampling.top_k)))
    if sampling.top_p is not None:
        steps.append(TopPLogitsWarper(float(sampling.top_p)))
    return LogitsProcessorList([*steps, _GumbelNoise(int(sampling.seed))])


class _GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise, so that the largest is a draw by the probabilities (the Gumbel-max trick).

    The noise comes from a generator of its own, on the CPU: what others draw meanwhile, and the device, do not matter.
    """

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.empty(scores.shape).exponential_(generator=self.generator).log_().neg_()
        return scores + noise.to(scores.device)


class SeededMultinomial(TorchFunctionMode):
    """In this block and this thread, `torch.multinomial` draws what it draws after `torch.manual_seed(seed)`.

    transformers draws with torch's global generator, which all threads share. Here it gets one of its own instead, so
    neither disturbs the other.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.multinomial:
            kwargs = kwargs | {"generator": self._generator(args[0].device)}
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]
