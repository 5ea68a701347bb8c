"""All interventions, in the order in which the command line lists them: a row is a file of this folder."""

from moeviz.capture.interventions import bias, force, mute, precision, replay, swap, top_k
from moeviz.capture.interventions.intervention import Option

INTERVENTIONS: tuple[Option, ...] = tuple(
    module.OPTION for module in (mute, force, bias, top_k, swap, precision, replay)
)
