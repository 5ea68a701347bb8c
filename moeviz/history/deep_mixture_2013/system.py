"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System(
    "deep-mixture",
    "2013",
    "Deep mixture",
    "two layers: the first responds to where a digit is, the second to what it is",
)
