"""What a page carries in its address beside the trace on screen: what What if changes, what Compare compares,
what Serve is asked.

A table by the path of a page: what it adds to its address, and how it takes what a link brings. A link only says what
is wanted. It is a stranger's, so the page checks it against what it offers, ignores the rest, and runs no change by
itself.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from moeviz_app import carried_counts, carried_datasets, carried_runs, models, serve_address, settings, shared, state
from moeviz_app.asked import LONGEST, Run, asked_run, number_in
from moeviz_app.live import run_live
from moeviz_app.options import fill_in
from moeviz_app.show import explained, say
from moeviz_app.traces import recent

from moeviz.charts import TOPICS
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import PHASES, RoutingTrace
from moeviz.text import quoted

KINDS = {  # of changes, as an address calls them
    "mute": "Mute experts",
    "force": "Force experts",
    "top-k": "Change top-k",
    "swap": "Swap two experts",
    "precision": "Change precision",
}
ONE_VALUE = {"top-k": state.TOP_K, "precision": state.PRECISION}  # changes of every layer, by the widget's key
PRECISIONS = ("bfloat16", "float16", "int8")
CHANGED_PROMPT = "changed_prompt"  # where the page reads another text than that of the trace on screen
BESIDE = {  # charts that Compare draws of both traces
    chart.question: chart
    for charts in TOPICS.values()
    for chart in charts
    if chart.layers in ("all", "one") and chart.tokens == "all"
}
CHART = "chart"  # in an address: the key of one of them
SIDES = {"first": state.FIRST_TRACE, "second": state.SECOND_TRACE}
THIRD = {"third": state.THIRD_TRACE}  # on Compare alone, where one is chosen
MOST_FIELDS = 30  # of a run in an address
_CHANGE_ASKED, _PAIR_ASKED = "change that a link asks for", "pair that a link asks for"


@dataclass(frozen=True, slots=True)
class Carried:
    """What one page does."""

    written: Callable[[], dict[str, str]]
    fill_in: Callable[[Mapping[str, str]], None]


def experts_key(layer: int) -> str:
    """Widget key of the experts that are muted or forced in a layer."""
    return f"{state.EXPERTS} of {layer}"


def swap_keys(layer: int) -> tuple[str, str]:
    """Widget keys of the two experts that are swapped in a layer."""
    return f"{state.EXPERTS} 0 of {layer}", f"{state.EXPERTS} 1 of {layer}"


def _change_written() -> dict[str, str]:
    """The change that is chosen, where the rest of the address brings the page's own model."""
    run = _run_in_address()
    model, how = (run.model, run.how) if run else (settings.SETTINGS.models[0], models.AS_IT_IS)
    prompt, kind = state.value(state.PROMPT) or "", _short(state.value(state.CHANGE))
    chosen = state.value(state.MODEL) or settings.SETTINGS.models[0]
    if state.waiting() is not None or kind is None or (chosen, state.how()) != (model, how) or len(prompt) > LONGEST:
        return {}
    own = {} if run is not None and run.prompt == prompt else {CHANGED_PROMPT: prompt}
    return own | {state.CHANGE: kind} | _particulars(kind)


def _short(kind: str | None) -> str | None:
    return next((short for short, name in KINDS.items() if name == kind), None)


def _particulars(kind: str) -> dict[str, str]:
    """What belongs to a change of this kind."""
    if kind in ONE_VALUE:
        values = {ONE_VALUE[kind]: state.value(ONE_VALUE[kind])}
    else:
        layer = state.value(state.CHANGED_LAYER)
        experts = map(state.value, swap_keys(layer)) if kind == "swap" else state.value(experts_key(layer)) or ()
        values = {state.CHANGED_LAYER: layer, state.EXPERTS: ",".join(map(str, experts))}
    return {key: str(value) for key, value in values.items()}


def _ask_for_change(query: Mapping[str, str]) -> None:
    """Fill in the prompt at once, and the change when the page knows the model that it is made in."""
    if query.get(state.CHANGE) not in KINDS:
        return
    state.set_value(_CHANGE_ASKED, dict(query))
    if prompt := query.get(CHANGED_PROMPT):
        state.set_value(state.PROMPT, prompt[: settings.SETTINGS.max_prompt_chars])


def fill_in_change(info: ModelInfo) -> None:
    """Let the widgets of What if hold the change that a link asked for, as far as this model has it."""
    if (query := state.take(_CHANGE_ASKED)) is None:
        return
    kind = query[state.CHANGE]
    state.set_value(state.CHANGE, KINDS[kind])
    if kind == "top-k":
        _set_if(state.TOP_K, number_in(query.get(state.TOP_K)), range(1, min(info.num_experts) + 1))
    elif kind == "precision":
        _set_if(state.PRECISION, query.get(state.PRECISION), PRECISIONS)
    elif (layer := number_in(query.get(state.CHANGED_LAYER))) in info.layers:
        state.set_value(state.CHANGED_LAYER, layer)
        _fill_in_experts(layer, range(info.num_experts[info.layers.index(layer)]), query)


def _set_if(key: str, value: object, offered: Container[object]) -> None:
    if value in offered:
        state.set_value(key, value)


def _fill_in_experts(layer: int, offered: range, query: Mapping[str, str]) -> None:
    asked = map(number_in, query.get(state.EXPERTS, "").split(","))
    experts = [expert for expert in asked if expert in offered]
    if query[state.CHANGE] == "swap":
        for key, expert in zip(swap_keys(layer), experts, strict=False):
            state.set_value(key, expert)
    elif experts:
        state.set_value(experts_key(layer), list(dict.fromkeys(experts)))


def part_name(name: str, phase: str) -> str:
    """What the prompt, or the generated text, of a recent trace is called."""
    return f"{name} · {phase}"


def _pair_written() -> dict[str, str]:
    """The two traces that are compared, where a link can bring both."""
    found = {side: _side(state.value(key)) for side, key in SIDES.items()}
    if not all(found.values()):
        return {}
    return {side: text for side, text in found.items() if text}


def _compared_written() -> dict[str, str]:
    """The same, the third where there is one, and the chart that is drawn of all."""
    pair, chart = _pair_written(), BESIDE.get(state.value(state.BESIDE))
    if (third := state.value(state.THIRD_TRACE)) is not None and pair:
        text = _side(third)
        pair = pair | {"third": text} if text else {}
    return pair | {CHART: chart.key} if pair and chart is not None else pair


def _side(chosen: str | None) -> str | None:
    """The run of a trace, or of a part of one, by the name that was chosen."""
    for name, trace in recent.traces().items():
        run, parts = recent.run_of(trace), {part_name(name, phase): {"part": phase} for phase in PHASES.categories}
        if chosen in (name, *parts):
            fits = run is not None and run.fits_an_address
            return urlencode(run.parameters() | parts.get(chosen, {})) if fits else None
    return None


Pair = dict[str, tuple[Run, str | None]]  # by side: a run, and which part of its trace


def _ask_for_pair(query: Mapping[str, str]) -> None:
    """Remember which runs are wanted; the page brings them up."""
    pair: Pair = {}
    for side in SIDES | THIRD:
        try:
            asked = dict(parse_qsl(query.get(side, ""), max_num_fields=MOST_FIELDS))
        except ValueError:
            continue
        if "prompt" in asked:
            pair[side] = asked_run(asked), asked.get("part")
    if pair:
        state.set_value(_PAIR_ASKED, pair)
        state.set_value(state.THIRD_TRACE, None)  # until it is brought up, where there is one
        by_key = {chart.key: question for question, chart in BESIDE.items()}
        _set_if(state.BESIDE, by_key.get(query.get(CHART, "")), BESIDE)


def forget_pair() -> None:
    """Callback of the choice of traces: somebody wants others than a link did."""
    state.take(_PAIR_ASKED)


def bring_up_pair() -> bool:
    """Let Compare show the traces that a link asked for; whether one of them waits for somebody to press Run."""
    pair: Pair = state.value(_PAIR_ASKED) or {}  # until all is done: a run can be interrupted
    waiting: Pair = {}
    for side, (run, part) in pair.items():
        with explained():
            if (trace := _brought_up(run, f"{side} going on")) is None:
                waiting[side] = run, part
            else:
                name = next(name for name, other in recent.traces().items() if other is trace)
                state.set_value((SIDES | THIRD)[side], name if part is None else part_name(name, part))
    state.set_value(_PAIR_ASKED, waiting)
    if waiting:
        _wait(next(iter(waiting.values()))[0])
    return bool(waiting)


def _brought_up(run: Run, key: str) -> RoutingTrace | None:
    """The newest of the recent traces from now on, the one that this run made or makes; None where that is to wait.

    Raises `ModelNotFound` if the model is not on offer, and what `run_live` raises.
    """
    models.check_on_offer(run.model)
    trace = recent.trace_of(run)
    if trace is None and shared.at_hand(run.model, run.how) and not run.new_tokens:
        trace = run_live(run, key)
    if trace is not None:
        recent.remember(trace, run)
    return trace


def _wait(run: Run) -> None:
    """Let this run wait on the first page, where no other does yet, which the page has said already."""
    if state.waiting() is None:
        what = f"with up to {run.new_tokens} tokens to generate" if run.new_tokens else "a model that is not loaded"
        why = (
            f"This link compares a run of {quoted(run.prompt)} by {quoted(run.model)}, {what}. Links do not start such "
            "runs by themselves: to start it, press Run on the Explore page, and come back."
        )
        state.wait(why, run, None, None)
        fill_in(run)
        say(why)


def _run_in_address() -> Run | None:
    """The run that made the trace on screen, where the address says it."""
    run = recent.run_of(state.current_trace())
    return run if run is not None and run.fits_an_address else None


CARRIED = {
    "what-if": Carried(_change_written, _ask_for_change),
    "compare": Carried(_compared_written, _ask_for_pair),
    "engine-difference": Carried(_pair_written, _ask_for_pair),
    "counts": Carried(carried_counts.written, carried_counts.fill_in),
    "serve": Carried(serve_address.written, serve_address.ask),
    "training": Carried(carried_runs.written, carried_runs.fill_in),
    **{page: Carried(carried_datasets.written, carried_datasets.fill_in) for page in carried_datasets.PAGES},
}
