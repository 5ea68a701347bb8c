"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("conditional", "2013, 2015", "Conditional computation", "a policy switches blocks of a network on")
