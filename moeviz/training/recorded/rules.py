"""The alarms: when each begins and is over, the source of its threshold, and what to do then.

Judged by assignments and not by steps: at a uniform share of 20 assignments, chance gives a MaxVio of 0.3 to 0.7.
"""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from moeviz.errors import InvalidTrace


class Alarm(NamedTuple):
    """A kind of alarm."""

    rule: str  # begins when …
    until: str  # is over when …
    over: str  # the message then, after the layer
    source: str  # of the threshold
    to_do: str


_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
ALARM_KINDS = {kind: Alarm(**words) for kind, words in _WORDS.items()}
KINDS = tuple(ALARM_KINDS)


@dataclass(frozen=True, slots=True)
class Rules:
    """The thresholds of the alarms in `ALARM_KINDS`, which gives their defaults.

    dead           an expert is dead once a uniform share would have been this many assignments since it last had one.
    enough         load is judged over enough steps for a uniform share of this many assignments.
    max_violation  load: busiest expert / uniform share, minus 1.
    collapsed      collapse: exp(entropy of load) / experts.
    mass           confidence: probability of the selected experts.
    z_growth       logits: growth of the z-loss within `z_steps`.
    z_steps        see there.
    logit_rms      logits: root mean square in half precision.
    margin         an alarm is over when its figure is back by this part of its threshold: otherwise a figure that
                   hovers there would be an alarm again and again.
    warmup         tokens before any alarm but `dead` can begin, and of which load is not judged afterwards. 0 suits a
                   router that is trained already; for a run from scratch there is `Rules.from_scratch()`.
    ignore         kinds of alarms that are not judged: ("aux_off",) if that is intended.

    Raises `InvalidTrace` for an unknown kind of alarm, or a threshold that is not a number above 0.
    """

    dead: int = 1_000
    enough: int = 1_000
    max_violation: float = 1.0
    collapsed: float = 0.5
    mass: float = 0.95
    z_growth: float = 2.0
    z_steps: int = 100
    logit_rms: float = 10.0
    margin: float = 1 / 3
    warmup: int = 0
    ignore: tuple[str, ...] = ()

    @classmethod
    def from_scratch(cls, warmup: int = 1_000_000, **others: Any) -> "Rules":
        """Return the thresholds for a run whose routers begin at random: uneven at first, whatever balances them.

        warmup   tokens before any alarm but `dead` can begin; of a short run, about its first tenth.
        others   any other rule.

        The busiest expert may have 2.5 times its share, and an expert is dead after 10,000 assignments.
        """
        return cls(**{"warmup": warmup, "max_violation": 1.5, "dead": 10_000, **others})

    def __post_init__(self) -> None:
        if unknown := set(self.ignore) - set(KINDS):
            raise InvalidTrace(f"There is no alarm {min(unknown)!r}. Choose one of {', '.join(KINDS)}.")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "ignore" and not _may_be(field.name, value):
                must = "from 0 on and below 1" if field.name == "margin" else "above 0"
                raise InvalidTrace(f"The rule {field.name} is {value!r}; it must be a number {must}.")


def _may_be(rule: str, value: Any) -> bool:
    if rule == "margin":  # with 1, no alarm would ever be over
        return bool(0 <= value < 1)
    return bool(value >= (0 if rule == "warmup" else 1e-9))


def as_json(rules: Rules) -> dict[str, Any]:
    """Return the rules as a file has them."""
    return asdict(rules)


def of_json(found: Any) -> Rules:
    """Read rules from a file; what is missing or invalid is as by default."""
    found = found if isinstance(found, dict) else {}
    plain = Rules()
    numbers = {
        field.name: found[field.name]
        for field in fields(Rules)
        if field.name != "ignore"
        and type(found.get(field.name)) in (int, float)
        and _may_be(field.name, found[field.name])
    }
    ignored = found.get("ignore")
    kept = tuple(kind for kind in KINDS if isinstance(ignored, list | tuple) and kind in ignored)
    return Rules(**{**asdict(plain), **numbers, "ignore": kept})
