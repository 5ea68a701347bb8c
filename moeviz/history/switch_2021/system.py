"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("switch", "2021", "Switch", "one expert per token, and what does not fit is dropped")
