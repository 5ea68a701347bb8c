"""The subject on screen: a text through a model, several texts, counts, a dataset, a model, or training runs.

The visitor chooses one subject, and the choice stays over all pages. Until then, each place shows an example of its
own. A page declares what it needs of a subject (`Takes`). If the chosen one lacks some of that, the page draws the
nearest subject that has it, and says so; the choice stays as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from weakref import WeakKeyDictionary

import streamlit as st

from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.errors import MissingField
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.tokens import visible
from moeviz.published import CHECKPOINTS, MODELS, published_counts
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving.memory import known_model, known_models
from moeviz.text import quoted
from moeviz_app.jobs import model_catalog, recorded
from moeviz_app.session import datasets, recent
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.session.visit import Takes, visit

# Parts that subjects have, and pages need.
ORDER, PROMPT, SEVERAL, KINDS, SCORES = "order", "prompt", "several", "kinds", "scores"
WEIGHTS, COUNTED, SIZE, SERVED, TRAINING = "weights", "counted", "size", "served", "training"
LACKS = {  # in a list, and as the reason for which a page shows another subject
    TRAINING: ("not a training run", "This page is about training runs."),
    SERVED: ("no costs of serving", "What it costs to serve is read off a recording, counts or a configuration."),
    SIZE: ("no configuration", "The size of {model} is not known here."),
    COUNTED: ("nothing counted", "For {model} there is a configuration only: no tokens have been counted."),
    ORDER: ("no tokens in order", "{model}: counts do not record which expert each token went to."),
    WEIGHTS: ("cannot be run here", "This page runs the model again, and this recording cannot be run here."),
    PROMPT: ("no prompt to run again", "This page reads one prompt again, and these texts are not one prompt."),
    SEVERAL: ("one text only", "One text shows little of what experts do: that takes several texts."),
    KINDS: ("no kinds of text", "{model}: these texts have no labels for their kinds."),
    SCORES: ("no router scores", "{model}: the router scores were not recorded."),
}
TEXT, TEXTS, COUNTS, MODEL, RUN = "Text", "Texts", "Counts", "Model", "Training"
MIXED, TRACE, RUNS = "mixed", "trace", "runs"  # ids, in addition to those made of names
RECENT, DATASET, OWN_COUNTS = "recent ", "dataset ", "counts "  # how the ids of what visitors bring begin
NAMES = {EMBEDDED: "Built-in model", NATURAL: "Built-in, left alone", FINE: "Built-in, many small experts"}
LONGEST = 60  # characters of a name
_known: WeakKeyDictionary[Counted, frozenset[str]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to look at."""

    id: str
    kind: str
    model: str  # its checkpoint's name, or what a file calls it
    name: str  # of the texts, counts or runs; "" for a configuration
    has: frozenset[str]
    read: Callable[[], Counted | ShownDataset | None]

    @property
    def title(self) -> str:
        """The names of the model and of the texts, as people call them."""
        parts = dict.fromkeys((model_title(self.model), self.name))  # one's own counts are called as their model
        return " · ".join(filter(None, parts))

    def lacks(self, needs: frozenset[str]) -> list[str]:
        """Return what it lacks of these needs, the most telling first."""
        return [need for need in LACKS if need in needs - self.has]


@dataclass(frozen=True, slots=True)
class Look:
    """The subject that the page draws, and the one that the visitor has chosen or the place has as its example."""

    drawn: Subject
    chosen: Subject
    is_example: bool
    takes: Takes

    @property
    def is_instead(self) -> bool:
        """True if the page draws another subject than the chosen one."""
        return self.drawn.id != self.chosen.id


def model_title(name: str) -> str:
    """Return what people call a model: the last part of a hub's name, and ours by words."""
    name = {short: long for long, short in CHECKPOINTS.items()}.get(name, name)
    return name and visible(NAMES.get(name) or name.rpartition("/")[2] or name)[:LONGEST]


def view() -> Look:
    """Return what this page draws for this visitor."""
    takes, offered = visit().takes, subjects()
    chosen = offered.get(visit().subject or (TRACE if visit().trace is not None else ""))
    shown = chosen or offered[takes.example]
    drawn = shown if _is_enough(shown, takes) else _nearest(shown, offered, takes)
    if takes.same_model and drawn.model != shown.model and takes.model is None and not shown.lacks(takes.needs):
        drawn = shown
    return Look(drawn, shown, chosen is None, takes)


def subject() -> Subject:
    """Return what this page draws for this visitor: see `view` for what they have chosen."""
    return view().drawn


def _is_enough(one: Subject, takes: Takes) -> bool:
    if takes.model not in (None, one.model):
        return False
    insists = (takes, one.id) in visit().insists_on
    return not one.lacks(takes.needs if insists else takes.needs | takes.prefers)


def _nearest(chosen: Subject, offered: dict[str, Subject], takes: Takes) -> Subject:
    """Return the nearest that is enough: of the same model, the visitor's own, of the same kind, or the example."""
    fit = [one for one in offered.values() if _is_enough(one, takes)]
    for near in (
        lambda one: one.model == chosen.model,
        lambda one: one.id == TRACE,
        lambda one: one.kind == chosen.kind,
    ):
        if found := next(filter(near, fit), None):
            return found
    return offered[takes.example]


def choose(id_: str) -> None:
    """Look at this subject from now on, on every page. Raises `MissingField` for one that is not here."""
    now = visit()
    if id_ not in (offered := subjects()):
        raise MissingField(
            f"This link is about {quoted(id_)}, which is not here, so you see what you saw before. Choose another in "
            "the list under the menu."
        )
    if id_.startswith(RECENT):
        trace = offered[id_].read()
        now.trace, id_ = trace, TRACE
        recent.remember(trace, recent.run_of(trace))
    if id_ != now.subject:
        now.subject, now.is_placed, now.token, now.brushed = id_, False, None, None
        now.overviews += 1
        now.seen.names.clear()
        st.session_state.pop("group", None)  # of the counts before


def subjects() -> dict[str, Subject]:
    """Return what there is to look at by id: examples, the visitor's own, datasets, published counts, models, runs."""
    found = [_of_trace(MIXED, recorded.example(), "six short texts in one", {WEIGHTS, PROMPT}, recorded.example)]
    for model in ROUTING:
        has = frozenset({ORDER, SEVERAL, KINDS, COUNTED, SIZE, SERVED, WEIGHTS})
        texts = partial(recorded.held_out, model)
        found.append(Subject(model, TEXTS, model, "60 texts of 15 kinds", has, texts))
    found += _own_traces()
    for name, counts in visit().counts.newest_first().items():
        found.append(_of_counts(f"{OWN_COUNTS}{name}", counts, name))
    for name in datasets.offered():
        found.append(_of_dataset(name))
    for model in MODELS:
        found.append(_of_counts(model.lower(), _published_subjects(model), "code, web and books"))
    routed = {*NAMES, *CHECKPOINTS.values()}
    for model in known_models():
        if model not in routed:
            has = frozenset({SIZE, SERVED})
            found.append(Subject(model, MODEL, model, "configuration only", has, lambda: None))
    found.append(Subject(RUNS, RUN, "", "training runs", frozenset({TRAINING}), lambda: None))
    return {one.id: one for one in found}


def _own_traces() -> list[Subject]:
    current, names = visit().trace, recent.traces()
    found = []
    if current is not None:
        title = next((name for name, trace in names.items() if trace is current), None) or recent.title_of(current)
        found.append(_own(TRACE, title, current))
    return found + [_own(f"{RECENT}{name}", name, trace) for name, trace in names.items() if trace is not current]


def _own(id_: str, name: str, trace: RoutingTrace) -> Subject:
    run = recent.run_of(trace)
    can_run = run is not None and model_catalog.why_only_read(run.model) is None
    return _of_trace(id_, trace, f"“{visible(name)}”", {WEIGHTS, PROMPT} if can_run else set(), lambda: trace)


def _of_trace(id_: str, trace: RoutingTrace, name: str, more: set[str], read: Callable[[], RoutingTrace]) -> Subject:
    if trace not in _known:
        has = {ORDER, COUNTED, SERVED} | ({SEVERAL} if trace.tokens["sequence"].nunique() > 1 else set())
        has |= {KINDS} if "label" in trace.tokens else set()
        has |= {SCORES} if trace.logits is not None else set()
        has |= {SIZE} if trace.model.parameters is not None or known_model(trace.model.name) else set()
        _known[trace] = frozenset(has)
    has = _known[trace] | more
    return Subject(id_, TEXTS if SEVERAL in has else TEXT, trace.model.name, name, has, read)


def _of_counts(id_: str, counts: Counted, name: str) -> Subject:
    model = CHECKPOINTS.get(counts.model.name, counts.model.name)
    if counts not in _known:
        size = {SIZE} if counts.model.parameters is not None or known_model(model) else set()
        _known[counts] = frozenset({COUNTED, SERVED} | size)
    return Subject(id_, COUNTS, model, visible(name)[:LONGEST], _known[counts], lambda: counts)


@lru_cache(len(MODELS))
def _published_subjects(model: str) -> ExpertCounts:
    return published_counts(model)


def _of_dataset(name: str) -> Subject:
    has = frozenset({ORDER, SEVERAL, KINDS, COUNTED})
    return Subject(f"{DATASET}{name}", TEXTS, "", f"dataset {name}", has, partial(datasets.named, name))
