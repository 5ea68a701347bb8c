"""All interventions, in the order in which the command line lists them: a row is a file of this folder."""

from moeviz.capture.interventions import bias, exchange, force, mute, precision, replay, top_k
from moeviz.capture.interventions.intervention import Option

INTERVENTIONS: tuple[Option, ...] = tuple(
    module.OPTION for module in (mute, force, bias, top_k, exchange, precision, replay)
)
