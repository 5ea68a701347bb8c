"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("dense", "2024", "Dense contrast", "a mixture beside two networks without: one as fast, one as large")
