"""Precision: the whole model runs in another precision, and its routers decide freely."""

from dataclasses import dataclass

from moeviz.capture.interventions.intervention import Option
from moeviz.capture.interventions.parameter import Parameter

NAMES = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True, slots=True)
class Precision:
    """The whole model in another precision, for `what_if`: "float32", "bfloat16", "float16" or "int8".

    Its routers decide freely, on what the less precise layers below them give. int8 rounds the weights of linear layers
    and of experts, and nothing else.

    >>> Precision("bfloat16")
    Precision(name='bfloat16')
    """

    name: str  # one of NAMES


OPTION = Option(
    "--precision",
    lambda args, _read: Precision(args.precision),
    {"choices": NAMES, "help": "run the model in another precision"},
    title="Change precision",
    meaning="The whole model runs in another precision; its routers decide freely.",
    parameters=(Parameter("precision", "Precision", lambda *_: NAMES[1:]),),
    of=lambda precision: Precision(precision),
)
