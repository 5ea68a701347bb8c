"""The subject bar, one line under the menu on every page: what is on screen, and the choice of something else.

A page that runs something has another subject when it is drawn: the bar is then drawn again, under other keys.
"""

from functools import partial

import streamlit as st

from moeviz.embedded.recorded_routing import ROUTING
from moeviz.expert_counts import ExpertCounts
from moeviz.metrics.words import item_word, layer_word
from moeviz.model_info import ModelInfo
from moeviz.published import CHECKPOINTS
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.text import numbers_span
from moeviz_app.session import session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.session.subject import COUNTED, LACKS, ORDER, SCORES, Look, Subject, choose, model_title, subjects, view
from moeviz_app.session.visit import visit
from moeviz_app.widgets.messages import escape_markdown, explained

KEY, AGAIN = "subject", "subject again"
RECORD = "moeviz trace - --model {} -o trace.npz < text.txt"


def subject_bar(key: str = KEY) -> None:
    """Draw what the visitor looks at, where to change it, and why the page draws something else, if it does."""
    look, offered = view(), subjects()
    needs = look.takes.needs | look.takes.prefers
    session.set_value(key, look.chosen.id)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key} bar"):
        st.badge(look.chosen.kind, color="violet", width="content")
        st.selectbox(
            "What you are looking at",
            list(offered),
            format_func=lambda id_: _label(offered[id_], needs, look),
            key=key,
            label_visibility="collapsed",
            on_change=partial(_choose, key),
            width=460,
        )
        facts = ""
        with explained():
            facts = _facts(look.chosen)
        st.markdown(f":small[{escape_markdown(facts)}]", width="content")
        st.markdown(":gray-badge[example of this place]" if look.is_example else "", width="content")
    if look.is_instead:
        _explain(look, key)


def _label(one: Subject, needs: frozenset[str], look: Look) -> str:
    """Return a subject's label in the list; with what it lacks, if it is not enough for the page."""
    lacks = [] if one.id == look.chosen.id else one.lacks(needs)
    return " — ".join([one.title, *(LACKS[lack][0] for lack in lacks[:1])])


def _choose(key: str) -> None:
    with explained():
        choose(session.value(key))


def _explain(look: Look, key: str) -> None:
    """Report what the chosen subject lacks and what is shown instead, and offer the ways out."""
    takes, chosen, drawn = look.takes, look.chosen, look.drawn
    lacks = chosen.lacks(takes.needs | takes.prefers)
    why = LACKS[lacks[0]][1] if lacks else "{model} is another model."
    why = why.format(model=model_title(chosen.model) or chosen.name[:1].upper() + chosen.name[1:])
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{key} instead"):
        st.text(f"{why} Shown instead: {drawn.title}", width="content")
        st.button("Look at this one everywhere", key=f"{key} everywhere", on_click=partial(choose, drawn.id))
        if not chosen.lacks(takes.needs) and takes.model in (None, chosen.model):
            insist = partial(visit().insists_on.add, (takes, chosen.id))
            st.button("Show mine anyway", key=f"{key} anyway", on_click=insist)
        elif chosen.model and set(lacks) & {ORDER, COUNTED, SCORES}:
            with st.popover("Record it: how?"):
                st.code(RECORD.format(chosen.model), language="bash")


def shown_instead_tag() -> str | None:
    """Return what is written on a picture that is not of the chosen subject; None if it is."""
    look = view()
    if not look.is_instead:
        return None
    drawn, chosen = (model_title(one.model) for one in (look.drawn, look.chosen))
    return f"{drawn}, not {chosen}" if chosen and drawn != chosen else f"{look.drawn.name}, not {look.chosen.name}"


def _facts(one: Subject) -> str:
    """Return the size of a subject, and the shape of its model. Raises `MoevizError` for a dataset that is gone."""
    found = one.read()
    if found is None:
        return ""
    if isinstance(found, ShownDataset):
        data = found.dataset
        return f"{data.tokens:,} tokens in {data.texts:,} texts · {model_title(data.model.name)}, {shape(data.model)}"
    return f"{_tokens(found, one)} · {shape(found.model)}"


def _tokens(counted: Counted, one: Subject) -> str:
    if isinstance(counted, ExpertCounts):
        tokens = f"{int(counted.tokens.sum(axis=0).max(initial=0)):,} tokens"
        layers = counted.model.layers
        return f"{tokens} at layers {', '.join(map(str, layers))}" if one.model in CHECKPOINTS.values() else tokens
    assert isinstance(counted, RoutingTrace)
    number, texts = len(counted.tokens), counted.tokens["sequence"].nunique()
    of = f" in {texts:,} texts" if texts > 1 and one.id not in ROUTING else ""  # whose names say it
    return f"{number:,} {item_word(counted.model)}{'s' * (number != 1)}{of}"


def shape(model: ModelInfo) -> str:
    """Return the layers and experts of a model in a few words."""
    layers, experts = len(model.layers), numbers_span(model.num_experts)
    of = f"{layers} {layer_word(model)}{'s' * (layers != 1)} × {experts} experts"
    return f"{of}, {model.top_k} per {item_word(model)}"
