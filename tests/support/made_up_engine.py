"""An engine for tests of corpora: it routes a text by its characters alone, so the same text goes the same way."""

from collections.abc import Generator
from dataclasses import replace
from hashlib import sha256

import numpy as np

from moeviz.capture.engines.engine import EngineModel, SoFar
from moeviz.capture.run.request import CaptureRequest
from moeviz.routing_trace import RoutingTrace, token_frame
from moeviz.testing import sample_trace


class MadeUpEngine(EngineModel):
    """A token a character; contexts of 64 tokens."""

    def __init__(self) -> None:
        self.info = replace(sample_trace(3).model, name="made up", backend="made up", num_layers=3, dtype=None)
        self.read: list[str] = []

    @property
    def max_tokens(self) -> int | None:
        return 64

    @property
    def chats(self) -> bool:
        return False

    def count_tokens(self, text: str) -> int:
        return len(text)

    def token_spans(self, text: str) -> list[tuple[int, int]] | None:
        return [(at, at + 1) for at in range(len(text))]

    def run(self, asked: CaptureRequest) -> Generator[SoFar, None, None]:
        (text,) = asked.prompts
        self.read.append(text)
        yield lambda: self._trace(text)

    def _trace(self, text: str) -> RoutingTrace:
        seed = int.from_bytes(sha256(text.encode()).digest()[:4], "little")
        made = sample_trace(3, len(text), seed=seed)
        tokens = token_frame(
            np.zeros(len(text)), np.arange(len(text)), list(text), np.array([ord(c) % 97 for c in text])
        )
        return replace(made, model=self.info, tokens=tokens, logits=None)

    def close(self) -> None:
        pass
