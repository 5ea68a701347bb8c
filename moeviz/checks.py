"""The commands check, diff, compare and precision as functions; each returns a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moeviz.errors import InvalidTrace

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

    import moeviz.capture.models.load
    import moeviz.routing_trace
    from moeviz.analyses.precisions import PrecisionTrace
    from moeviz.routing_trace import Counted

MOST = 8  # traces, as many as a visit to the app keeps


def check(
    counted: "Counted", beside: "moeviz.routing_trace.RoutingTrace | None" = None, tokens: int | None = None
) -> "pd.DataFrame":
    """List what is not plausible in a trace, or in counts: one row per finding, so an empty table is good.

    beside  another trace of the same tokens, to find which convention differs.
    tokens  the number of tokens that met a router, if known.

    Columns, checks and their sources are those of `moeviz.metrics.doctor.examine`; `says` is a sentence. On the command
    line: `moeviz check`.

    >>> import moeviz
    >>> len(moeviz.check(moeviz.trace("embedded", "Il fait froid.")))
    0
    """
    from moeviz.metrics.doctor import examine

    return examine(counted, beside, tokens)


def diff(one: "moeviz.routing_trace.RoutingTrace", other: "moeviz.routing_trace.RoutingTrace") -> "pd.DataFrame":
    """Compare two recordings of the same tokens, such as of two engines or precisions: one row per layer.

    A convention that differs, such as rows that are off by one, is undone first; `moeviz.metrics.conventions.explain`
    names it. Columns, definitions and source are those of `moeviz.metrics.engine_difference.engine_difference`.
    On the command line: `moeviz diff`. Raises `InvalidTrace` for traces that have nothing in common.

    >>> import moeviz
    >>> trace = moeviz.trace("embedded", "Il fait froid.")
    >>> moeviz.diff(trace, trace)["equal_sets"].min().item()
    1.0
    """
    from moeviz.metrics.conventions import explain
    from moeviz.metrics.engine_difference import engine_difference

    return engine_difference(explain((one, other)).undone)


def compare(*traces: "moeviz.routing_trace.RoutingTrace") -> "pd.DataFrame":
    """Compare two traces or more, also of models that have nothing in common: one row per trace.

    Columns, definitions and source are those of `moeviz.metrics.multi_trace.figures_of_several`; `trace` is a letter,
    in the order given. On the command line: `moeviz compare`. Raises `InvalidTrace` for fewer than two traces, or more
    than eight.

    >>> import moeviz
    >>> one, other = (moeviz.trace("embedded", text) for text in ("Il fait froid.", "12 + 7 = 19"))
    >>> moeviz.compare(one, other)["trace"].tolist()
    ['A', 'B']
    """
    from moeviz.metrics.multi_trace import figures_of_several

    if not 2 <= len(traces) <= MOST:
        raise InvalidTrace(f"Two to {MOST} traces can be compared, and {len(traces)} were given.")
    return figures_of_several(dict(zip("ABCDEFGH", traces, strict=False)))


def precision(
    model: "moeviz.capture.models.load.LoadedModel | str",
    prompts: str | Sequence[Any],
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    chat: bool = False,
    segment: str | None = None,
) -> "pd.DataFrame":
    """Count the tokens that go to another set of experts than in float32: one row per precision and layer.

    The precisions are bfloat16, float16 and int8, as in `moeviz.analyses.precisions.in_precisions`; arguments are those
    of `trace`, and `segment` counts only the tokens of one segment of a chat, as "answer". Columns: precision str, and
    those of `moeviz.metrics.comparison.set_changes`; `tied` and `flipped` are NaN at layers whose router moeviz cannot
    rank. On the command line: `moeviz precision`.

    >>> import moeviz
    >>> moeviz.precision("embedded", "Il fait froid.")["precision"].unique().tolist()  # doctest: +SKIP
    ['bfloat16', 'float16', 'int8']
    """
    from moeviz.analyses.precisions import in_precisions

    return precision_table(in_precisions(model, prompts, tokenizer=tokenizer, chat=chat), segment)


def precision_table(found: "dict[str, PrecisionTrace]", segment: str | None = None) -> "pd.DataFrame":
    """Count the tokens sent to another set of experts than in float32, by precision and layer, ties apart."""
    import pandas as pd

    from moeviz.metrics.comparison import set_changes

    exact = found["float32"].trace
    counts = slice(None) if segment is None else exact.in_segment(segment)
    tables = []
    for name, other in found.items():
        if name != "float32":
            table = set_changes(exact.of_segment(segment), other.trace.of_segment(segment), other.tied[:, counts])
            unknown = [not known for known in other.known]
            table.loc[unknown, ["tied", "flipped"]] = float("nan")
            tables.append(table.assign(precision=name))
    table = pd.concat(tables, ignore_index=True)
    return table[["precision", *table.columns.drop("precision")]]
