"""How engines count layers: what their files have a row for."""

from collections.abc import Sequence

from moeviz.errors import MissingField, MoevizError
from moeviz.serving.plans.plan import ExpertPlan, Layers


def layers_in_all(plan: ExpertPlan, engine: str) -> int:
    """All layers of the model, dense ones too. Raises `MissingField` if nobody says how many."""
    if plan.num_layers is None:
        raise MissingField(
            f"{engine} counts all layers of the model, dense ones too, and the trace does not say how many there are. "
            "Say it: `--num-layers`, the config's `num_hidden_layers`."
        )
    if plan.num_layers <= max(plan.slots):
        raise MoevizError(
            f"The model has {plan.num_layers} layers, counted from 0, and the plan is for layer {max(plan.slots)} too. "
            "Give the config's `num_hidden_layers`."
        )
    return plan.num_layers


def all_rows(rows: Layers, dense: Sequence[int], plan: ExpertPlan, engine: str) -> list[list[int]]:
    """A row for each layer of the model, in order; dense layers have `dense`."""
    return [list(rows.get(layer, dense)) for layer in range(layers_in_all(plan, engine))]


def check_even(plan: ExpertPlan, engine: str) -> None:
    """Raise `MoevizError` if layers have different numbers of experts, which the engine's file cannot say."""
    if len(sizes := {len(loads) for loads in plan.loads.values()}) > 1:
        raise MoevizError(
            f"{engine} counts the same number of experts in every layer, and this model has layers of "
            f"{' and '.join(map(str, sorted(sizes)))}. It cannot be given a plan for such a model."
        )
