"""Which pages of the menu have something to draw of a trace: some of the gallery have soft gates, or no neighbours."""

from moeviz.routing_trace import RoutingTrace


def everyone(trace: RoutingTrace) -> bool:
    """Whether everything goes to all experts, as behind a soft gate: then all counts are equal."""
    return trace.model.top_k >= max(trace.model.num_experts)


def pages_for(trace: RoutingTrace) -> list[str]:
    """The titles of pages that say something about this trace, in the order of the menu."""
    counts, layers = not everyone(trace), len(trace.model.layers) > 1
    says = {
        "Explore": True,
        "Tokens": True,
        "Load": counts,
        "Specialization": counts and trace.tokens.get("label") is not None,
        "Locality": counts and bool(trace.tokens["sequence"].duplicated().any()),
        "Co-activation": counts and trace.model.top_k > 1,
        "Confidence": trace.logits is not None and trace.model.score_function != "unknown",
        "Layers": counts and layers,
        "Flow": counts and layers,
        "Coverage": counts,
    }
    return [page for page, something in says.items() if something]
