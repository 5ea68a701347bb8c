"""What the gallery and the command line say of a system."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class System:
    """One system of the gallery: a row in the file `system.py` of its folder.

    In the same folder, `model` has `train(seed=…, watch=…, …)`, whose defaults are the settings that ship; `trace`
    makes a trace of the result, `picture` the numbers of its paper's picture, `chart` draws them, `shown` has each
    chart with what it is drawn from, `checks` holds what its paper claims, and `controls` breaks a mechanism for each
    claim, which must miss then.
    """

    name: str  # on the command line
    year: str
    title: str  # of its page, which has the folder's name
    what: str  # in a line
    trains: bool = True  # False where there is nothing to train here
