"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System(
    "hierarchical",
    "1994",
    "Hierarchical mixture",
    "a tree of gates, fitted by expectation maximisation in a few passes",
)
