"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("local-experts", "1991", "Local experts", "four small experts and a gate tell vowels apart")
