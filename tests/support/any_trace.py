"""Traces of every shape for property tests: small, and with everything that a file must keep."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from moeviz import ModelInfo, RoutingTrace
from moeviz.routing_trace import NO_EXPERT, sort_slots, token_frame

NOT_RECORDED = -2
TEXTS = ("", "a", "=1", "'", "\u200b+1", "NA", '"', "\r\n", "é", "-", " x")


@dataclass(frozen=True)
class AnyTrace:
    """What hypothesis draws. The trace is made in the test, not while drawing: beartype samples at random."""

    seed: int
    layers: int
    tokens: int
    top_k: int
    most: int  # ids are spread below it, so that few of the experts occur
    dropped: float
    not_recorded: float
    weights: bool
    labels: bool
    in_order: bool  # of sequence and position
    slot_order: str

    def trace(self) -> RoutingTrace:
        """The same one every time."""
        rng, shape = np.random.default_rng(self.seed), (self.layers, self.tokens, self.top_k)
        chosen = [rng.choice(self.most, self.top_k, replace=False) for _ in range(self.layers * self.tokens)]
        experts = np.array(chosen, np.int16).reshape(shape)
        experts[rng.random(shape) < self.dropped] = NO_EXPERT
        experts[rng.random(shape[:2]) < self.not_recorded] = NOT_RECORDED
        weights = rng.integers(-2, 9, shape).astype(np.float32) / 3 if self.weights else None
        experts, weights = sort_slots(experts, weights)
        layers = tuple(sorted(rng.choice(60, self.layers, replace=False).tolist()))
        model = ModelInfo("any", "test", layers, (self.most,) * self.layers, self.top_k)
        if self.slot_order == "unknown" and not self.weights:
            model = ModelInfo("any", "test", layers, (self.most,) * self.layers, self.top_k, slot_order="unknown")
        return RoutingTrace(model, self._tokens(rng), experts, weights)

    def _tokens(self, rng: np.random.Generator) -> pd.DataFrame:
        count, places = self.tokens, rng.choice(40, self.tokens, replace=False)
        places = np.sort(places) if self.in_order else places
        ids, phases = rng.integers(-1, 9, count), rng.choice(["prompt", "generated"], count)
        frame = token_frame(places // 10, places % 10, rng.choice(TEXTS, count).tolist(), ids, phases)
        return frame.assign(label=pd.Series(rng.choice(TEXTS, count).tolist(), dtype="str")) if self.labels else frame


def any_trace(**given: st.SearchStrategy) -> st.SearchStrategy[AnyTrace]:
    """Traces of which some facts are `given`, and all others may be anything."""
    facts = {
        "seed": st.integers(0, 2**16),
        "layers": st.integers(1, 3),
        "tokens": st.integers(0, 6),
        "top_k": st.integers(1, 3),
        "most": st.sampled_from((3, 64, 20_000)),
        "dropped": st.sampled_from((0, 0.3, 1)),
        "not_recorded": st.sampled_from((0, 0.4, 1)),
        "weights": st.booleans(),
        "labels": st.booleans(),
        "in_order": st.booleans(),
        "slot_order": st.sampled_from(("weight", "unknown")),
    }
    return st.builds(AnyTrace, **facts | given)
