"""Precision: the whole model runs in another precision, and its routers decide freely."""

from dataclasses import dataclass

from moeviz.capture.interventions.intervention import Option

NAMES = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True, slots=True)
class Precision:
    """An intervention of `what_if`: the model in another precision. Routers decide as they like in it."""

    name: str  # one of NAMES


OPTION = Option(
    "--precision",
    lambda args, _read: Precision(args.precision),
    {"choices": NAMES, "help": "run the model in another precision"},
)
