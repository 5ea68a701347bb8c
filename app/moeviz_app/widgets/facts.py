"""The facts about a model, a trace or a dataset, in a line or as a row of numbers."""

import streamlit as st

from moeviz.embedded import EMBEDDED
from moeviz.metrics.label_similarity import clearly_like, label_similarity
from moeviz.metrics.parameters import touched_growth
from moeviz.metrics.significance import HANDFUL
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import in_words_of, item_word, layer_word
from moeviz.model_info import ModelInfo
from moeviz.parameters import CONVENTIONS, active_parameters
from moeviz.routing_trace import RoutingTrace
from moeviz.text import numbers_span
from moeviz_app.jobs import recorded
from moeviz_app.jobs.recorded import cached_for_example
from moeviz_app.session.datasets import ShownDataset

ACTIVE_HELP = f"its top-k experts in each MoE layer, and everything else (convention “{CONVENTIONS[0]}”)."


def model_facts(info: ModelInfo, memory: tuple[int, int | None], max_tokens: int | None = None) -> None:
    """Draw a model's layers, experts, parameters, memory (bytes that it needs, bytes that are free) and context."""
    kind = layer_word(info)
    rows = {
        f"MoE {kind}s": (_of_all_layers(info), f"{kind.capitalize()}s with experts, out of all that the model has."),
        "Experts": (numbers_span(info.num_experts), f"Routed experts in each MoE {kind}."),
        "Top-k": (info.top_k, f"Experts that a token can use in one {kind}."),
        **_parameters(info),
    }
    needed, free = (None if size is None else f"{size / 1e9:,.2f} GB" for size in memory)
    if memory[0]:
        rows["Memory"] = (
            needed,
            f"Needed for its weights, plus a tenth. Free on the device it would run on: {free or 'not known'}.",
        )
    if max_tokens is not None:
        rows["Context"] = (f"{max_tokens:,}", "Tokens that fit, prompt and generated tokens together.")
    figures(rows)


def trace_name(trace: RoutingTrace) -> None:
    """Draw which model a trace is of, and who recorded it."""
    model, tokens = trace.model, len(trace.tokens)
    revision = f" at {model.revision}" if model.revision else ""
    dtype = f" in {model.dtype}" if model.dtype else ""
    site = f" (its {model.site} routers)" if model.site else ""
    by = f"{model.recorded_by} in {model.backend}" if model.recorded_by else model.backend
    routed = f"{tokens:,} {item_word(model)}{'s' * (tokens != 1)}"
    st.text(f"{routed} through {model.name}{revision}{site}{dtype}, recorded by {by}")
    cautions(trace)


def cautions(trace: RoutingTrace) -> None:
    """Draw what to know of a trace before reading its charts: few tokens, how it was generated, its caution."""
    model, tokens = trace.model, len(trace.tokens)
    if 0 < tokens < HANDFUL:
        st.text(in_words_of(model, f"That is too little to say what stands out, which needs {HANDFUL} tokens or more."))
    if model.witness:
        st.text(f"This model was {model.witness}." if model.witness.startswith("checked") else model.witness)
    if model.decoding:
        st.text(f"How tokens were generated: {model.decoding}")
    if (varying := recorded.varying_routes(trace)) is not None:
        st.text(in_words_of(model, varying))
    if model.caution:
        st.text(f"Caution: {model.caution}")  # a stranger's file may say anything here: never Markdown


def dataset_facts(shown: ShownDataset) -> None:
    """Draw a dataset's caution, and which shards are left out. A stranger's facts: plain text."""
    dataset, model = shown.dataset, shown.dataset.model
    if model.caution:
        st.text(f"Caution: {visible(model.caution)}")
    if dataset.left_out and not shown.why_not:
        more = f" and {len(dataset.left_out) - 1:,} more" if len(dataset.left_out) > 1 else ""
        st.text(f"Left out: {dataset.left_out[0]}{more}")


def trace_facts(trace: RoutingTrace) -> None:
    """Draw which model a trace is of, and how much of what it holds."""
    trace_name(trace)
    figures(cached_for_example(trace, "figures", lambda: _figures_of(trace)))


def _figures_of(trace: RoutingTrace) -> dict[str, tuple[int | str, str]]:
    model = trace.model
    return (
        _counted(trace)
        | {
            f"MoE {layer_word(model)}s": (_of_all_layers(model), "Layers with experts, out of all that the model has."),
            "Experts": (
                f"{model.top_k} of {numbers_span(model.num_experts)}",
                in_words_of(model, "Experts that a token can use, out of how many."),
            ),
        }
        | _not_recorded(trace)
        | _parameters(model)
        | _touched(trace)
        | _likeness(trace)
    )


def _parameters(info: ModelInfo) -> dict[str, tuple[int, str]]:
    if info.parameters is None:
        return {}
    total, active = info.parameters.total, active_parameters(info.parameters, info.top_k, CONVENTIONS[0])
    return {
        "Parameters": (total, f"{total:,} in all; tied weights count once."),
        "Active": (active, f"{active:,} that one token runs through: {ACTIVE_HELP}"),
    }


def _counted(trace: RoutingTrace) -> dict[str, tuple[str, str]]:
    """Count what was routed: tokens of a prompt and those that followed, or digits, utterances …"""
    item, phase = item_word(trace.model), trace.tokens["phase"]
    if item != "token":
        return {f"{item.capitalize()}s": (f"{len(phase):,}", f"Every {item} that was routed.")}
    return {
        "Prompt tokens": (f"{(phase == 'prompt').sum():,}", "Tokens of the prompt, including special tokens."),
        "Generated": (f"{(phase == 'generated').sum():,}", "Generated tokens that went through the routers."),
    }


def _not_recorded(trace: RoutingTrace) -> dict[str, tuple[str, str]]:
    """Count the tokens whose experts the trace does not give; no row without any."""
    if not (missing := int((~trace.recorded).any(axis=0).sum())):
        return {}
    meaning = (
        "Tokens whose experts the trace does not give, at some layers or at all. No number here counts them there."
    )
    return {"Not recorded": (f"{missing:,}", meaning)}


def _touched(trace: RoutingTrace) -> dict[str, tuple[int, str]]:
    if trace.model.parameters is None or not trace.recorded.all(axis=0).any():
        return {}
    touched = int(touched_growth(trace)["touched"].iloc[-1])
    return {"Touched": (touched, f"{touched:,} that at least one of these tokens ran through.")}


def _likeness(trace: RoutingTrace) -> dict[str, tuple[str, str]]:
    """Name the kind of text that a trace is routed like, for the embedded model, whose kinds of text ship with it."""
    if trace.model.name != EMBEDDED or not trace.recorded.any():
        return {}
    reference = recorded.evaluation_routing()
    if (trace.model.layers, trace.model.num_experts) != (reference.model.layers, reference.model.num_experts):
        return {}  # a stranger's file may call any model by this name
    nearest, *others = label_similarity(trace, reference).itertuples(index=False)
    then = ", ".join(f"{label} {bits:.2f}" for label, bits in others[:3])
    meaning = (
        f"Of the {len(others) + 1} kinds of text in the evaluation set, {nearest.label} uses the experts most "
        f"similarly: {nearest.divergence:.2f} bits apart (Jensen-Shannon divergence of the loads, averaged over "
        f"layers; 0 is the same, 1 has no expert in common). Next come {then}; the furthest is {others[-1].label}, at "
        f"{others[-1].divergence:.2f}. A kind is named where each third of the text is closest to it too."
    )
    return {"Routed like": (clearly_like(trace, reference) or "no kind clearly", meaning)}


def figures(rows: dict[str, tuple[int | str, str]]) -> None:
    """Draw a row of numbers: under each name its value, and on hover its meaning."""
    with st.container(horizontal=True, gap="medium"):
        for label, (value, meaning) in rows.items():
            st.metric(label, value, help=meaning, format="compact" if isinstance(value, int) else None, width="content")


def _of_all_layers(info: ModelInfo) -> str:
    return f"{len(info.layers)}" + (f" of {info.num_layers}" if info.num_layers else "")
