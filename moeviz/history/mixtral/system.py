"""Its row in the gallery."""

from moeviz.history.shared.system import System

WHAT = "all feed-forward blocks of a language model with open weights are mixtures of eight experts"
SYSTEM = System("mixtral", "2023", "Mixtral", WHAT, trains=False)
