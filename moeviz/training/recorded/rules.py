"""When an alarm begins and is over, where its threshold comes from, and what to do then.

Judged by assignments and not by steps: at a uniform share of 20 assignments, luck alone gives a MaxVio of 0.3 to 0.7.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from moeviz.errors import InvalidTrace


class Alarm(NamedTuple):
    """A kind of alarm."""

    rule: str  # begins when …
    until: str  # is over when …
    over: str  # what is said then, after the layer
    source: str  # of the threshold
    to_do: str


ALARM_KINDS: dict[str, Alarm] = {
    "dead": Alarm(
        "An expert has had no token since a uniform share would have been 1,000 assignments. One at 1/100 of its share "
        "would be missed with probability e^-10.",
        "Each expert that was dead has 1/100 of a uniform share again, over about as many assignments.",
        "all experts get tokens again",
        "The probability is exact. “0.0 = dead”, without a window: NVIDIA-NeMo/Automodel PR 1232.",
        "Raise the coefficient of the aux loss, or add noise to the router, while the expert can still come back. One "
        "that gets no token gets no gradient, so it does not come back by itself.",
    ),
    "load": Alarm(
        "The busiest expert of a layer has more than twice its share (MaxVio above 1), over so many steps that a "
        "uniform share is 1,000 assignments. Luck alone then gives 0.04 (8 experts, top-2) to 0.09 (256, top-8).",
        "MaxVio was at most two thirds of what it took, in three judgements in a row.",
        "no expert has much more than its share any more",
        "MaxVio: arXiv 2408.15664, eq. 4. The threshold is ours.",
        "See whether it falls by itself, as early in a run from scratch: Rules.from_scratch() waits for that. If it "
        "rises, raise the coefficient of the aux loss.",
    ),
    "collapse": Alarm(
        "exp(entropy of load) / experts is below 0.5: less than half of a layer's experts do the work, judged over as "
        "many steps as load.",
        "It was at least two thirds, in three judgements in a row.",
        "more experts share the work again",
        "Ours, in effective experts.",
        "Stop. Go back to a checkpoint from before the alarm, see that an aux loss is computed, and raise its "
        "coefficient or lower the learning rate of the routers.",
    ),
    "aux_off": Alarm(
        "No forward since the last log returned an aux loss, though this family of models has one; or its coefficient "
        "is 0.",
        "A forward returns one, and its coefficient is not 0.",
        "the aux loss is on",
        "huggingface/trl PR 6085, issue 7009.",
        "Set output_router_logits=True and router_aux_loss_coef in the model's config. If it is meant to be off, say "
        'so: Rules(ignore=("aux_off",)).',
    ),
    "confidence": Alarm(
        "The selected experts of a layer have more than 0.95 of the probability, mean over tokens, and more than when "
        "it was judged before: the router can no longer explore. Not judged where all experts are selected.",
        "The others had more than 1/15, in three judgements in a row.",
        "the other experts have more of the probability again",
        "Measured by prime-rl PR 2545. The threshold is ours.",
        "Add a z-loss, noise, or a lower learning rate for the routers. Late in training it may be what you want.",
    ),
    "logits": Alarm(
        "The z-loss is twice its lowest value of the last 100 steps, and above that of logits that are 0; or the root "
        "mean square of logits is above 10 in bfloat16 or float16.",
        "It is less than 1 2/3 times that value; the root mean square is below 6.7.",
        "the router's logits do not grow any more",
        "Why: ST-MoE, arXiv 2202.08906, section 3. Both thresholds are ours.",
        "Add a z-loss (a coefficient of 0.001 is usual), and run the routers in float32.",
    ),
}
KINDS = tuple(ALARM_KINDS)


@dataclass(frozen=True, slots=True)
class Rules:
    """The thresholds of the alarms in `ALARM_KINDS`, which gives their defaults.

    dead           an expert is dead where a uniform share would have been so many assignments since it last had one.
    enough         load is judged over so many steps that a uniform share is this many assignments.
    max_violation  load: busiest expert / uniform share, minus 1.
    collapsed      collapse: exp(entropy of load) / experts.
    mass           confidence: probability of the selected experts.
    z_growth       logits: growth of the z-loss within `z_steps`.
    z_steps        see there.
    logit_rms      logits: root mean square in half precision.
    margin         an alarm is over when its figure is back by this part of its threshold: not at once, or a figure that
                   hovers there would be an alarm again and again.
    warmup         tokens before any alarm but `dead` is said, and of which load is not judged afterwards. 0 suits a
                   router that is trained already; for a run from scratch there is `Rules.from_scratch()`.
    ignore         kinds of alarms that are not judged: ("aux_off",) where that is meant.

    Raises `InvalidTrace` for a kind of alarm that there is not, or a threshold that is no number above 0.
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
        """The thresholds for a run whose routers begin at random: uneven at first, whatever balances them.

        warmup   tokens before any alarm but `dead` is said; of a short run, about its first tenth.
        others   any other rule.

        The busiest expert may have 2.5 times its share, and an expert is dead after 10,000 assignments.
        """
        return cls(**{"warmup": warmup, "max_violation": 1.5, "dead": 10_000, **others})

    def __post_init__(self) -> None:
        if unknown := set(self.ignore) - set(KINDS):
            raise InvalidTrace(f"There is no alarm {min(unknown)!r}. Choose from {', '.join(KINDS)}.")
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
    """The rules, for a file."""
    return asdict(rules)


def of_json(found: Any) -> Rules:
    """Rules from a file; what is missing or is no rule is as by default."""
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
