"""What a page carries in its address beside the trace on screen: what What if changes, what Compare compares,
what Serve is asked.

A table by the path of a page: what it adds to its address, and how it takes what a link brings. A link only says what
is wanted. It is a stranger's, so the page checks it against what it offers, ignores the rest, and runs no change by
itself.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from moeviz_app import settings
from moeviz_app.jobs import model_catalog
from moeviz_app.jobs.run_request import LONGEST, RunRequest, number_in, run_from_query
from moeviz_app.session import recent, session
from moeviz_app.url import carried_counts, carried_datasets, carried_runs, serve_address

from moeviz.charts import TOPICS
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import PHASES

KINDS = {  # of changes, as an address calls them
    "mute": "Mute experts",
    "force": "Force experts",
    "top-k": "Change top-k",
    "swap": "Swap two experts",
    "precision": "Change precision",
}
ONE_VALUE = {"top-k": session.TOP_K, "precision": session.PRECISION}  # changes of every layer, by the widget's key
PRECISIONS = ("bfloat16", "float16", "int8")
CHANGED_PROMPT = "changed_prompt"  # where the page reads another text than that of the trace on screen
BESIDE = {  # charts that Compare draws of both traces
    chart.question: chart
    for charts in TOPICS.values()
    for chart in charts
    if chart.layers in ("all", "one") and chart.tokens == "all"
}
CHART = "chart"  # in an address: the key of one of them
SIDES = {"first": session.FIRST_TRACE, "second": session.SECOND_TRACE}
THIRD = {"third": session.THIRD_TRACE}  # on Compare alone, where one is chosen
MOST_FIELDS = 30  # of a run in an address
_CHANGE_ASKED = "change that a link asks for"
PAIR_ASKED = "pair that a link asks for"


@dataclass(frozen=True, slots=True)
class PageAddress:
    """What one page does."""

    written: Callable[[], dict[str, str]]
    fill_in: Callable[[Mapping[str, str]], None]


def experts_key(layer: int) -> str:
    """Widget key of the experts that are muted or forced in a layer."""
    return f"{session.EXPERTS} of {layer}"


def swap_keys(layer: int) -> tuple[str, str]:
    """Widget keys of the two experts that are swapped in a layer."""
    return f"{session.EXPERTS} 0 of {layer}", f"{session.EXPERTS} 1 of {layer}"


def _change_written() -> dict[str, str]:
    """The change that is chosen, where the rest of the address brings the page's own model."""
    run = _run_in_address()
    model, how = (run.model, run.how) if run else (settings.SETTINGS.models[0], model_catalog.DEFAULT_LOAD)
    prompt, kind = session.value(session.PROMPT) or "", _short(session.value(session.CHANGE))
    chosen = session.value(session.MODEL) or settings.SETTINGS.models[0]
    if (
        session.waiting() is not None
        or kind is None
        or (chosen, session.how()) != (model, how)
        or len(prompt) > LONGEST
    ):
        return {}
    own = {} if run is not None and run.prompt == prompt else {CHANGED_PROMPT: prompt}
    return own | {session.CHANGE: kind} | _particulars(kind)


def _short(kind: str | None) -> str | None:
    return next((short for short, name in KINDS.items() if name == kind), None)


def _particulars(kind: str) -> dict[str, str]:
    """What belongs to a change of this kind."""
    if kind in ONE_VALUE:
        values = {ONE_VALUE[kind]: session.value(ONE_VALUE[kind])}
    else:
        layer = session.value(session.CHANGED_LAYER)
        experts = map(session.value, swap_keys(layer)) if kind == "swap" else session.value(experts_key(layer)) or ()
        values = {session.CHANGED_LAYER: layer, session.EXPERTS: ",".join(map(str, experts))}
    return {key: str(value) for key, value in values.items()}


def _ask_for_change(query: Mapping[str, str]) -> None:
    """Fill in the prompt at once, and the change when the page knows the model that it is made in."""
    if query.get(session.CHANGE) not in KINDS:
        return
    session.set_value(_CHANGE_ASKED, dict(query))
    if prompt := query.get(CHANGED_PROMPT):
        session.set_value(session.PROMPT, prompt[: settings.SETTINGS.max_prompt_chars])


def fill_in_change(info: ModelInfo) -> None:
    """Let the widgets of What if hold the change that a link asked for, as far as this model has it."""
    if (query := session.take(_CHANGE_ASKED)) is None:
        return
    kind = query[session.CHANGE]
    session.set_value(session.CHANGE, KINDS[kind])
    if kind == "top-k":
        _set_if(session.TOP_K, number_in(query.get(session.TOP_K)), range(1, min(info.num_experts) + 1))
    elif kind == "precision":
        _set_if(session.PRECISION, query.get(session.PRECISION), PRECISIONS)
    elif (layer := number_in(query.get(session.CHANGED_LAYER))) in info.layers:
        session.set_value(session.CHANGED_LAYER, layer)
        _fill_in_experts(layer, range(info.num_experts[info.layers.index(layer)]), query)


def _set_if(key: str, value: object, offered: Container[object]) -> None:
    if value in offered:
        session.set_value(key, value)


def _fill_in_experts(layer: int, offered: range, query: Mapping[str, str]) -> None:
    asked = map(number_in, query.get(session.EXPERTS, "").split(","))
    experts = [expert for expert in asked if expert in offered]
    if query[session.CHANGE] == "swap":
        for key, expert in zip(swap_keys(layer), experts, strict=False):
            session.set_value(key, expert)
    elif experts:
        session.set_value(experts_key(layer), list(dict.fromkeys(experts)))


def part_name(name: str, phase: str) -> str:
    """What the prompt, or the generated text, of a recent trace is called."""
    return f"{name} · {phase}"


def _pair_written() -> dict[str, str]:
    """The two traces that are compared, where a link can bring both."""
    found = {side: _side(session.value(key)) for side, key in SIDES.items()}
    if not all(found.values()):
        return {}
    return {side: text for side, text in found.items() if text}


def _compared_written() -> dict[str, str]:
    """The same, the third where there is one, and the chart that is drawn of all."""
    pair, chart = _pair_written(), BESIDE.get(session.value(session.BESIDE))
    if (third := session.value(session.THIRD_TRACE)) is not None and pair:
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


AskedPair = dict[str, tuple[RunRequest, str | None]]  # by side: a run, and which part of its trace


def _ask_for_pair(query: Mapping[str, str]) -> None:
    """Remember which runs are wanted; the page brings them up."""
    pair: AskedPair = {}
    for side in SIDES | THIRD:
        try:
            asked = dict(parse_qsl(query.get(side, ""), max_num_fields=MOST_FIELDS))
        except ValueError:
            continue
        if "prompt" in asked:
            pair[side] = run_from_query(asked), asked.get("part")
    if pair:
        session.set_value(PAIR_ASKED, pair)
        session.set_value(session.THIRD_TRACE, None)  # until it is brought up, where there is one
        by_key = {chart.key: question for question, chart in BESIDE.items()}
        _set_if(session.BESIDE, by_key.get(query.get(CHART, "")), BESIDE)


def _run_in_address() -> RunRequest | None:
    """The run that made the trace on screen, where the address says it."""
    run = recent.run_of(session.current_trace())
    return run if run is not None and run.fits_an_address else None


PAGE_ADDRESSES = {
    "what-if": PageAddress(_change_written, _ask_for_change),
    "compare": PageAddress(_compared_written, _ask_for_pair),
    "engine-difference": PageAddress(_pair_written, _ask_for_pair),
    "counts": PageAddress(carried_counts.written, carried_counts.fill_in),
    "serve": PageAddress(serve_address.written, serve_address.ask),
    "training": PageAddress(carried_runs.written, carried_runs.fill_in),
    **{page: PageAddress(carried_datasets.written, carried_datasets.fill_in) for page in carried_datasets.PAGES},
}
