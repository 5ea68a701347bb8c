"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("hierarchical", "1994", "Hierarchical mixture", "a tree of gates, which learns in a few passes")
