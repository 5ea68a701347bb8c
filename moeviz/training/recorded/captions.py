"""The words of every claim about training runs; what is claimed, and when, is in `claims.py` and `training/alarms.py`.

To mend a sentence, change it here or in `captions.toml`, then run
`pytest --update-golden tests/metrics/test_claims.py`. Names of runs and alarms' own words are a stranger's: for text
nodes only.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from moeviz.claims import Claim, claim
from moeviz.metrics.captions import claims_in, count, times_said
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import percent
from moeviz.text import listed, with_and

LONGEST_NAME = 40
V = TypeVar("V")
Ends = Sequence[tuple[str | None, V]]  # by run, what it has at its end; without a name if there is one run

globals().update(claims_in(Path(__file__).with_suffix(".toml"), __name__))
if TYPE_CHECKING:  # those of the table

    def __getattr__(name: str) -> Callable[..., Claim]: ...


def _quote(name: str) -> str:
    return f"“{visible(name)[:LONGEST_NAME]}”"


def _at_the_end(runs: Ends[Any], words: Callable[..., str]) -> str:
    parts = [("" if name is None else f"in {_quote(name)} ") + words(*values) for name, values in runs]
    return f"At the end, {'; '.join(parts)}."


def _experts(experts: Sequence[int], size: int) -> str:
    return f"experts {listed(experts, 8)} of {size} do" if len(experts) > 1 else f"expert {experts[0]} of {size} does"


# ---- charts of runs -------------------------------------------------------------------------------------------------


@claim
def not_drawn(lacking: Sequence[str], drawn: Sequence[str], lacks: str) -> str:
    have = "has" if len(lacking) == 1 else "have"
    are = "is" if len(drawn) == 1 else "are"
    return f"{with_and([*map(_quote, lacking)])} {have} {lacks}: only {with_and([*map(_quote, drawn)])} {are} drawn."


class Stretch(NamedTuple):
    """Experts without a token: how many, the first of them, and the step since which it had none."""

    experts: int
    expert: int
    since: float


@claim
def load_at_end(expert: int, times: float, experts: int, dead: Stretch | None, back: Stretch | None) -> str:
    sentence = f"At the end, expert {expert} has {times:.1f} times its uniform share"
    if dead is not None:
        if dead.experts == 1:
            return f"{sentence}, and expert {dead.expert} has been dead since step {dead.since:,.0f}."
        return f"{sentence}, and {dead.experts} of {experts} experts are dead, the first since step {dead.since:,.0f}."
    if back is None:
        return f"{sentence}, and none is dead."
    if back.experts == 1:
        was = f"expert {back.expert}, which had no token from step {back.since:,.0f} on, has some again"
        return f"{sentence}, and none is dead: {was}."
    return f"{sentence}, and none is dead: {back.experts} experts without a token before have some again."


@claim
def violation_at_end(runs: Ends[tuple[int | None, float, float | None]]) -> str:
    def words(layer: int | None, worst: float, chance: float | None) -> str:
        where = "a layer" if layer is None else f"layer {layer}"
        usual = "" if chance is None else f", compared with {chance:.2f} by chance"
        return f"the worst is {where}, at a MaxVio of {worst:.2f}{usual}"

    return _at_the_end(runs, words)


@claim
def fewest_experts_at_end(runs: Ends[tuple[int, float]]) -> str:
    return _at_the_end(
        runs, lambda layer, share: f"layer {layer} works with {share:.0%} of its experts in effect, the fewest"
    )


@claim
def loss_at_end(runs: Ends[tuple[float, float | None]]) -> str:
    def words(logged: float, without: float | None) -> str:
        if without is None:
            return f"the loss as it was logged is {logged:.3f}"
        both = "" if logged == without else f" without the aux loss, and {logged:.3f} with it"
        return f"the loss is {without:.3f}{both}"

    return _at_the_end(runs, words)


@claim
def aux_loss_at_end(runs: Ends[tuple[float | None, float | None]]) -> str:
    def words(loss: float | None, coefficient: float | None) -> str:
        if loss is None:
            return "no aux loss is computed"
        factor = "" if coefficient is None else f", and its coefficient is {coefficient:g}"
        return f"the model's aux loss is {loss:.3g}{factor}"

    return _at_the_end(runs, words)


@claim
def z_loss_at_end(runs: Ends[tuple[float, float]]) -> str:
    return _at_the_end(
        runs, lambda last, first: f"the z-loss of the worst layer is {last:.3g}, after {first:.3g} at first"
    )


@claim
def change_at_end(runs: Ends[tuple[float, int, float]]) -> str:
    def words(mean: float, layer: int, most: float) -> str:
        return f"{mean:.0%} of the choices changed since the snapshot before, most in layer {layer}: {most:.0%}"

    return _at_the_end(runs, words)


# ---- what can be claimed of alarms ----------------------------------------------------------------------------------


@claim
def unnamed_alarms(alarms: int, step: float) -> str:
    number = "One alarm is" if alarms == 1 else f"{alarms:,} alarms are"
    return f"{number} on at step {step:,.0f}, and this source does not name them: open the folder of the run."


# ---- is the router healthy? -----------------------------------------------------------------------------------------


@claim
def collapsed(step: int, layer: int, experts: Sequence[int], of: int, share: float) -> str:
    return f"No, since step {step:,}: in layer {layer}, {_experts(experts, of)} {percent(share)} of the work."


@claim
def starved(experts: int, of: int, assignments: int, of_assignments: int) -> str:
    get = "1 gets" if experts == 1 else f"{experts:,} get"
    return (
        f"Of the other {of:,}, {get} less than a twentieth of a uniform share: {assignments:,} of the last "
        f"{of_assignments:,} assignments."
    )


@claim
def more_alarms(more: int) -> str:
    return "One more alarm like it is on." if more == 1 else f"{more:,} more alarms like it are on."


def _busiest(layer: int, expert: int, times: float) -> str:
    return f"The busiest, expert {expert} of layer {layer}, has {times_said(times)} times its share."


@claim
def unguarded(layer: int, expert: int, times: float) -> str:
    return f"So far, but nothing keeps the load even: the aux loss is off. {_busiest(layer, expert, times)}"


@claim
def healthy(step: int, over: int, layer: int, expert: int, times: float) -> str:
    was = f" {count(over, 'alarm')} {'is' if over == 1 else 'are'} over." if over else ""
    return f"Yes: no alarm is on at step {step:,}.{was} {_busiest(layer, expert, times)}"


# ---- alarms, which a run's file keeps -------------------------------------------------------------------------------


def _cause(aux_coefficient: float | None, none_computed: bool) -> str:
    if aux_coefficient is not None:
        return f"; the coefficient of the aux loss is {aux_coefficient:g}"
    return "; no aux loss is computed" if none_computed else ""


@claim
def alarm_dead(
    layer: int, experts: Sequence[int], size: int, since: int, aux_coefficient: float | None, none_computed: bool
) -> str:
    names = f"expert {experts[0]} of {size} has" if len(experts) == 1 else f"{len(experts)} of {size} experts have"
    return f"layer {layer}: {names} been dead since step {since}{_cause(aux_coefficient, none_computed)}"


@claim
def alarm_hardly_back(layer: int, aux_coefficient: float | None, none_computed: bool) -> str:
    cause = _cause(aux_coefficient, none_computed)
    return f"layer {layer}: an expert that was dead gets less than 1/100 of its uniform share{cause}"


@claim
def alarm_collapse(
    layer: int, experts: Sequence[int], size: int, share: float, aux_coefficient: float | None, none_computed: bool
) -> str:
    cause = _cause(aux_coefficient, none_computed)
    return f"layer {layer}: {_experts(experts, size)} {share:.0%} of the work{cause}"


@claim
def alarm_load(
    layer: int, expert: int, times: float, most: float, aux_coefficient: float | None, none_computed: bool
) -> str:
    cause = _cause(aux_coefficient, none_computed)
    return f"layer {layer}: expert {expert} has {times:.1f} times its share (of at most {most:.3g}){cause}"
