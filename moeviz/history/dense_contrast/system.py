"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("dense", "2024", "Dense contrast", "a mixture next to two dense networks: one as fast, one as large")
