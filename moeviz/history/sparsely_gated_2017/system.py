"""Its row in the gallery."""

from moeviz.history.shared.system import System

WHAT = "a layer of many experts between two LSTMs, with noisy top-k"
SYSTEM = System("sparsely-gated", "2017", "Sparsely gated", WHAT)
