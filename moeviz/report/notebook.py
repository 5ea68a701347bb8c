"""A trace in a few lines of HTML, as notebooks and the report show it. All text in it is a stranger's, and escaped."""

from html import escape

from moeviz.metrics.tokens import visible
from moeviz.metrics.words import layer_word
from moeviz.model_info import ModelInfo
from moeviz.parameters import CONVENTIONS, active_parameters
from moeviz.routing_trace import RoutingTrace
from moeviz.text import numbers_span

FIRST_TOKENS, FIRST_LINES, LINE, CELL = 400, 5, 200, 200


def trace_html(trace: RoutingTrace) -> str:
    """Write the facts about a trace and the first lines of its text, for a notebook."""
    table = facts_table(trace)
    for cell in ("th", "td"):  # notebooks set tables to the right
        table = table.replace(f"<{cell}>", f'<{cell} style="text-align: left">')
    lines = "\n".join(map(safe, first_lines(trace)))
    words = f'<pre style="white-space: pre-wrap; overflow-wrap: anywhere">{lines}</pre>' if lines else ""
    return f"<div>{caution(trace)}{table}{words}</div>"


def caution(trace: RoutingTrace) -> str:
    """Return the trace's caution as a paragraph of HTML; empty without one."""
    words = trace.model.caution
    return f'<p class="caution">Caution: {safe(words, 1_000)}</p>' if words else ""


def facts(trace: RoutingTrace) -> dict[str, str]:
    """Return facts of a trace to be read before its pictures: names, and values that are not escaped."""
    model, tokens = trace.model, trace.tokens
    generated = int((tokens["phase"] == "generated").sum())
    texts = tokens["sequence"].nunique()
    fields = ["expert ids", *(name for name in ("weights", "logits") if getattr(trace, name) is not None)]
    fields += ["labels"] if "label" in tokens else []
    rows = {
        "model": model.name + (f" at {model.revision}" if model.revision else ""),
        "recorded by": model.backend + (f", in {model.dtype}" if model.dtype else ""),
        "routers": model.site,
        "tokens": f"{len(tokens):,}"
        + (f", {generated:,} of them generated" if generated else "")
        + (f", in {texts:,} texts" if texts > 1 else ""),
        "generation": model.decoding,
        "not recorded": _not_recorded(trace),
        f"MoE {layer_word(model)}s": _layers(model),
        "experts": f"top-{model.top_k} of {numbers_span(model.num_experts)}",
        "order of a token's experts": "" if trace.ordered else "not known",
        "score function": model.score_function,
        "parameters": _parameters(model),
        "fields": ", ".join(fields),
    }
    return {name: value for name, value in rows.items() if value}


def facts_table(trace: RoutingTrace) -> str:
    """Write the facts as a table, escaped."""
    cells = (f"<tr><th>{safe(name)}</th><td>{safe(value)}</td></tr>" for name, value in facts(trace).items())
    return f"<table>{''.join(cells)}</table>"


def first_lines(trace: RoutingTrace) -> list[str]:
    """Return the first lines of the first text, unescaped; an ellipsis where it goes on."""
    first = trace.tokens["text"][trace.tokens["sequence"] == trace.tokens["sequence"].min()]
    text = "".join(first.iloc[:FIRST_TOKENS])
    lines = text.splitlines()
    more = ["…"] if len(first) > FIRST_TOKENS or len(lines) > FIRST_LINES else []
    return [line[:LINE] + "…" * (len(line) > LINE) if line else " " for line in lines[:FIRST_LINES]] + more


def safe(text: str, most: int = CELL) -> str:
    """Escape a stranger's text for a page: signs that vanish or reorder made visible, and cut where it is endless."""
    left_out = f"… ({len(text):,} characters)" if len(text) > most else ""
    return escape(visible(text[:most])) + left_out


def _not_recorded(trace: RoutingTrace) -> str:
    missing = ~trace.recorded
    tokens, everywhere = int(missing.any(axis=0).sum()), int(missing.all(axis=0).sum())
    if not tokens:
        return ""
    where = "at every layer" if tokens == everywhere else "at some layers or at all"
    return f"the experts of {tokens:,} token{'s' * (tokens > 1)}, {where}"


def _layers(model: ModelInfo) -> str:
    which = f"{model.layers[0]} to {model.layers[-1]}" if len(model.layers) > 1 else f"{model.layers[0]}"
    return f"{len(model.layers)} ({which})" + (f" of {model.num_layers}" if model.num_layers else "")


def _parameters(model: ModelInfo) -> str:
    if model.parameters is None:
        return ""
    active = active_parameters(model.parameters, model.top_k, CONVENTIONS[0])
    return f"{model.parameters.total:,}, {active:,} of them active (convention: {CONVENTIONS[0]})"
