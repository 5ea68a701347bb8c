"""The fields of pages' addresses, beside those of the run on screen: a table by the path of a page.

Most pages say what some widgets hold, a field each (`PAGE_FIELDS`). A change of the routing or of a word, the traces
that are compared and the controls of serving have ways of their own (`PAGE_ADDRESSES`). A link only says what is
wanted. It is a stranger's, so the page checks it against what it offers and ignores the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

from moeviz.charts import TOPICS
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.model_info import ModelInfo
from moeviz.published import MODELS
from moeviz.routing_trace import PHASES
from moeviz_app import settings
from moeviz_app.jobs import model_catalog
from moeviz_app.jobs.run_request import LONGEST, RunRequest, number_in, run_from_query
from moeviz_app.session import datasets, opened, recent, session, training_runs
from moeviz_app.session.visit import visit
from moeviz_app.url import serve_address
from moeviz_app.url.serve_address import fill_in

KINDS = {  # of changes, as an address calls them
    "mute": "Mute experts",
    "force": "Force experts",
    "bias": "Turn experts up or down",
    "top-k": "Change top-k",
    "swap": "Swap two experts",
    "precision": "Change precision",
}
ONE_VALUE = {"top-k": session.TOP_K, "precision": session.PRECISION}  # changes of every layer, by the widget's key
PRECISIONS = ("bfloat16", "float16", "int8")
AMOUNTS = tuple(half / 2 for half in range(-16, 17))  # that an expert is turned up by, or down
CHANGED_PROMPT = "changed_prompt"  # where the page reads another text than that of the trace on screen
CHART = "chart"  # in an address: the key of one of them
SIDES = {"first": session.FIRST_TRACE, "second": session.SECOND_TRACE}
THIRD = {"third": session.THIRD_TRACE}  # on Compare alone, where one is chosen
MOST_FIELDS = 30  # of a run in an address
MOST_SEARCHED = 100  # characters of a word
DATASET = "dataset"
BESIDE = {  # charts that Compare draws of both traces
    chart.question: chart
    for charts in TOPICS.values()
    for chart in charts
    if chart.layers in ("all", "one") and chart.tokens == "all"
}


@dataclass(frozen=True, slots=True)
class PageAddress:
    """The two directions of a page's address: writing it, and filling in what a link brings."""

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
    """Return the fields of a change of this kind."""
    if kind in ONE_VALUE:
        values = {ONE_VALUE[kind]: session.value(ONE_VALUE[kind])}
    else:
        layer = session.value(session.CHANGED_LAYER)
        experts = map(session.value, swap_keys(layer)) if kind == "swap" else session.value(experts_key(layer)) or ()
        values = {session.CHANGED_LAYER: layer, session.EXPERTS: ",".join(map(str, experts))}
        values |= {session.AMOUNT: session.value(session.AMOUNT)} if kind == "bias" else {}
    return {key: str(value) for key, value in values.items()}


def _ask_for_change(query: Mapping[str, str]) -> None:
    """Fill in the prompt at once, and the change when the page knows the model that it is made in."""
    if query.get(session.CHANGE) not in KINDS:
        return
    visit().change_asked = dict(query)
    if prompt := query.get(CHANGED_PROMPT):
        session.set_value(session.PROMPT, prompt[: settings.SETTINGS.max_prompt_chars])


def fill_in_change(info: ModelInfo) -> None:
    """Let the widgets of What if hold the change that a link asked for, as far as this model has it."""
    query, visit().change_asked = visit().change_asked, None
    if query is None:
        return
    kind = query[session.CHANGE]
    session.set_value(session.CHANGE, KINDS[kind])
    if kind == "top-k":
        fill_in(session.TOP_K, number_in(query.get(session.TOP_K)), range(1, min(info.num_experts) + 1))
    elif kind == "precision":
        fill_in(session.PRECISION, query.get(session.PRECISION), PRECISIONS)
    elif (layer := number_in(query.get(session.CHANGED_LAYER))) in info.layers:
        session.set_value(session.CHANGED_LAYER, layer)
        if kind == "bias":
            amount = next((amount for amount in AMOUNTS if str(amount) == query.get(session.AMOUNT)), None)
            fill_in(session.AMOUNT, amount, AMOUNTS)
        _fill_in_experts(layer, range(info.num_experts[info.layers.index(layer)]), query)


def _fill_in_experts(layer: int, offered: range, query: Mapping[str, str]) -> None:
    asked = map(number_in, query.get(session.EXPERTS, "").split(","))
    experts = [expert for expert in asked if expert in offered]
    if query[session.CHANGE] == "swap":
        for key, expert in zip(swap_keys(layer), experts, strict=False):
            session.set_value(key, expert)
    elif experts:
        session.set_value(experts_key(layer), list(dict.fromkeys(experts)))


def part_name(name: str, phase: str) -> str:
    """Return the name of the prompt, or of the generated text, of a recent trace."""
    return f"{name} · {phase}"


def _pair_written() -> dict[str, str]:
    """The two traces that are compared, where a link can bring both."""
    found = {side: _side(session.value(key)) for side, key in SIDES.items()}
    if not all(found.values()):
        return {}
    return {side: text for side, text in found.items() if text}


def _compared_written() -> dict[str, str]:
    """Return the traces that are compared, the third where there is one, and the chart that is drawn of all."""
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


def _ask_for_pair(query: Mapping[str, str]) -> None:
    """Remember which runs are wanted; the page brings them up."""
    pair: dict[str, tuple[RunRequest, str | None]] = {}  # by side: a run, and which part of its trace
    for side in SIDES | THIRD:
        try:
            asked = dict(parse_qsl(query.get(side, ""), max_num_fields=MOST_FIELDS))
        except ValueError:
            continue
        if "prompt" in asked:
            pair[side] = run_from_query(asked), asked.get("part")
    if pair:
        visit().pair_asked = pair
        session.set_value(session.THIRD_TRACE, None)  # until it is brought up, where there is one
        by_key = {chart.key: question for question, chart in BESIDE.items()}
        fill_in(session.BESIDE, by_key.get(query.get(CHART, "")), BESIDE)


def _run_in_address() -> RunRequest | None:
    """The run that made the trace on screen, where the address says it."""
    run = recent.run_of(session.current_trace())
    return run if run is not None and run.fits_an_address else None


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an address: its name there, the widget whose value it is, and how a text becomes that value."""

    name: str
    key: str  # of the widget
    text: Callable[[Any], str | None]  # of the widget's value; None stays out of the address
    value: Callable[[str], Any]  # of the address's text; None for what is not on offer
    cleared: bool = False  # whether the widget is emptied where a link does not say a value on offer


def write_fields(fields: tuple[Field, ...]) -> dict[str, str]:
    """Return what the widgets hold, as a query; empty where the first field, of which the others are, has nothing."""
    query = {field.name: text for field in fields if (text := field.text(session.value(field.key))) is not None}
    return query if fields[0].name in query else {}


def read_fields(fields: tuple[Field, ...], query: Mapping[str, str]) -> None:
    """Let the widgets hold what a query says, where it says anything of the first field; the pages check the rest.

    Raises what the fields' values raise.
    """
    if fields[0].name not in query or fields[0].value(query[fields[0].name]) is None:
        return
    for field in fields:
        value = field.value(query[field.name]) if field.name in query else None
        if value is not None or field.cleared:
            session.set_value(field.key, value)


def _number(name: str, key: str | None = None) -> Field:
    """A whole number, as a widget holds it."""
    return Field(name, key or name, lambda value: None if value is None else str(value), number_in)


def _choice(name: str, key: str, addresses: Mapping[str, str], cleared: bool = False) -> Field:
    """One of these choices, each by what it is called in an address."""
    choices = {address: choice for choice, address in addresses.items()}
    return Field(name, key, addresses.get, choices.get, cleared)


def _kind(name: str, key: str) -> Field:
    """A kind of text: the page checks whether there is one."""
    return Field(name, key, lambda kind: kind or None, lambda text: text[:MOST_SEARCHED])


def _dataset_on_offer(name: str) -> str:
    """The name itself. Raises `MissingField` for a dataset that is not open here."""
    if name not in datasets.offered():
        datasets.named(name)
    return name


def _texts_on_offer(name: str | None) -> str | None:
    """The name itself, where an address may say it: of texts that ship, or that are on screen."""
    return name if name in (*ROUTING, session.OF_TRACE, session.OF_DATASET) else None


def _dataset_of_experts(name: str | None) -> str | None:
    return datasets.chosen() if session.value(session.SEEN_IN) == session.OF_DATASET else None


DATASET_PAGES = frozenset({"corpus", "balance", *(topic.lower().replace(" ", "-") for topic in TOPICS)})
_OF_DATASET = (
    Field(DATASET, session.DATASET, lambda _: datasets.chosen(), _dataset_on_offer),
    _number("layer", session.CORPUS_LAYER),
)
_OF_TEXTS = (
    Field("seen", session.SEEN_IN, _texts_on_offer, _texts_on_offer),
    Field(DATASET, session.DATASET, _dataset_of_experts, _dataset_on_offer),
)
_OF_COUNTS = (
    _choice(
        "counts",
        session.COUNTS,
        {opened.published(model): model.lower() for model in MODELS}
        | {opened.TRACE: "trace", opened.HELD_OUT: "embedded"},
    ),
    _number(session.GROUP),
    _number(session.COUNTED_LAYER),
)
PAGE_FIELDS: dict[str, tuple[Field, ...]] = {  # of pages whose address says what their widgets hold
    "training": (
        _choice("run", session.RUN, training_runs.SHIPPED),
        _choice("beside", session.OTHER_RUN, training_runs.SHIPPED, cleared=True),
        _number(session.RUN_LAYER),
        _choice("part", session.RUN_PART, training_runs.PARTS, cleared=True),
    ),
    "experts": (
        *_OF_TEXTS,
        Field("find", session.WORD, lambda word: word or None, lambda text: text[:MOST_SEARCHED], cleared=True),
    ),
    "all-experts": _OF_TEXTS,
    "contrast": (_kind("first", session.FIRST_KIND), _kind("second", session.SECOND_KIND)),
    **dict.fromkeys(DATASET_PAGES, _OF_DATASET),
}


def _word_written() -> dict[str, str]:
    """The word that was typed over, and what stands in its place."""
    if (found := visit().word_change) is None or len(found[1].of(found[0].prompt)) > LONGEST:
        return {}
    start, end, text = found[1]
    return {"word": f"{start}-{end}", "becomes": text}


def _ask_for_word(query: Mapping[str, str]) -> None:
    """Remember what stands in place of which word; the page checks it beside its text."""
    start, end = (number_in(part) for part in query.get("word", "").partition("-")[::2])
    text = query.get("becomes", "")
    visit().word_linked = {"start": start, "end": end, "text": text} if start is not None and end is not None else None


def _balance_written() -> dict[str, str]:
    """The dataset on screen, or else whose counts."""
    return write_fields(_OF_DATASET) or write_fields(_OF_COUNTS)


def _ask_for_balance(query: Mapping[str, str]) -> None:
    """Show counts in place of a dataset, where a link asks for them. Raises what the fields' values raise."""
    if DATASET not in query and _OF_COUNTS[0].name in query:
        session.set_value(session.DATASET, None)
    read_fields(_OF_DATASET, query)
    read_fields(_OF_COUNTS, query)


PAGE_ADDRESSES = {
    "what-if": PageAddress(_change_written, _ask_for_change),
    "compare": PageAddress(_compared_written, _ask_for_pair),
    "one-word": PageAddress(_word_written, _ask_for_word),
    "engine-difference": PageAddress(_pair_written, _ask_for_pair),
    "serve": PageAddress(serve_address.written, serve_address.ask),
    **{page: PageAddress(partial(write_fields, of), partial(read_fields, of)) for page, of in PAGE_FIELDS.items()},
    "balance": PageAddress(_balance_written, _ask_for_balance),
}
