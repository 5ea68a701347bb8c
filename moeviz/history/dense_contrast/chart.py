"""A mixture next to two dense networks: what each costs, how well each predicts, and what more experts bring."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.parameters import written
from moeviz.history.dense_contrast.model import KINDS
from moeviz.history.dense_contrast.payoff import loss_by_parameters
from moeviz.history.dense_contrast.picture import (
    HERE,
    OTHERS,
    REAL,
    THIS_RUN,
    memory_against_compute,
    perplexity_by_step,
)

TICKS = [40, 50, 60, 70, 80, 100, 120, 150, 200, 300, 500, 1000]
SHAPES = ("circle", "triangle-left", "triangle-up")
BELOW = {"sparse": "right", "as fast": "center"}  # which kinds have their numbers under their mark, and how aligned


def memory_compute_triangle(frame: pd.DataFrame) -> alt.LayerChart:
    """Total against active parameters of a mixture and its twins, twice. Columns: those of `memory_against_compute`."""
    numbers = {f"{name}_text": frame[name].map(written) for name in ("total", "active", "multiply_adds")}
    kinds = alt.Scale(domain=list(KINDS), range=list(SHAPES))
    legend = alt.Legend(title=None, orient="bottom", symbolFillColor=theme.NOTE, symbolStrokeColor=theme.NOTE)
    base = alt.Chart(frame.assign(**numbers)).encode(
        x=alt.X(
            "memory:Q", title="memory: all parameters, share of the mixture's", scale=_whole(), axis=theme.share_axis()
        ),
        y=alt.Y(
            "compute:Q", title="compute: active parameters", scale=_whole(), axis=alt.Axis(format="%", tickCount=6)
        ),
        color=_colour("network", (HERE, REAL), theme.PAIR),
    )
    marks = base.mark_point(filled=True, size=140, opacity=1).encode(
        shape=alt.Shape("kind:N", scale=kinds, legend=legend),
        tooltip=[
            alt.Tooltip("network:N"),
            alt.Tooltip("kind:N"),
            alt.Tooltip("total_text:N", title="parameters"),
            alt.Tooltip("active_text:N", title="active for one word"),
            alt.Tooltip("multiply_adds_text:N", title="multiply-adds for one word"),
            alt.Tooltip("memory:Q", title="memory, share of the mixture's", format=".1%"),
            alt.Tooltip("compute:Q", title="active, share of the mixture's parameters", format=".1%"),
        ],
    )
    corners = pd.DataFrame({"memory": [0.0, 1.0], "compute": [0.0, 1.0]})
    dense = (
        alt.Chart(corners)
        .mark_line(color=theme.NOTE, strokeDash=list(theme.DASH))
        .encode(x="memory:Q", y="compute:Q", tooltip=alt.value("dense networks: all parameters are active"))
    )
    return theme.framed(alt.layer(dense, _twins(frame), marks, *_sizes(base)), theme.MEDIUM + 40)


def _twins(frame: pd.DataFrame) -> alt.Chart:
    """From each mixture to the left, to the network that is as fast, and up, to the one that is as large."""
    mixtures = frame[frame["kind"] == "sparse"].set_index("network")[["memory", "compute"]]
    twins = frame[frame["kind"] != "sparse"].join(mixtures.add_prefix("mixture_"), on="network")
    return (
        alt.Chart(twins)
        .mark_rule(strokeWidth=2, opacity=0.6)
        .encode(
            x=alt.X("memory:Q"),
            x2="mixture_memory:Q",
            y=alt.Y("compute:Q"),
            y2="mixture_compute:Q",
            color=_colour("network", (HERE, REAL), theme.PAIR),
        )
    )


def _sizes(base: alt.Chart) -> list[alt.Chart]:
    """Under a mixture how many of how many parameters, under its fast twin how many."""
    words = {"sparse": "datum.active_text + ' of ' + datum.total_text", "as fast": "datum.total_text"}
    return [
        base.transform_filter(f"datum.kind == '{kind}'")
        .transform_calculate(words=words[kind])
        .mark_text(align=align, baseline="top", dy=10, fontWeight="bold")
        .encode(text="words:N")
        for kind, align in BELOW.items()
    ]


def perplexity_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """One line per run, in the colour of its kind. Columns: those of `perplexity_by_step`."""
    base = alt.Chart(frame).encode(
        x=alt.X("step:Q", title="training step", axis=alt.Axis(format=",d", tickCount=6)),
        y=alt.Y(
            "perplexity:Q",
            title="perplexity on held-out words",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=TICKS, format="d"),
        ),
        color=_colour("kind", tuple(KINDS), (*theme.PAIR, theme.OTHER)),
        detail="seed:N",
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("kind:N"),
            alt.Tooltip("seed:Q", format="d"),
            alt.Tooltip("step:Q", format=",d"),
            alt.Tooltip("perplexity:Q", format=".1f"),
        ],
    )
    others = base.transform_filter(f"datum.run == '{OTHERS}'").mark_line(strokeWidth=1.5, opacity=0.8)
    mine = base.transform_filter(f"datum.run == '{THIS_RUN}'").mark_line(
        strokeWidth=4, point=alt.OverlayMarkDef(size=50)
    )
    return theme.framed(others + mine, theme.MEDIUM)


def payoff_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """A point a run, a line through the means of the mixtures, and a rule at the dense model's mean.

    Columns: those of `loss_by_parameters`.
    """
    says = frame["experts"].map(lambda count: "dense" if count == 1 else f"{count} experts")
    kind = says.where(says == "dense", "mixture")
    base = alt.Chart(frame.assign(model=says, kind=kind, millions=frame["parameters"] / 1e6)).encode(
        x=alt.X(
            "millions:Q",
            title="parameters in all, millions",
            scale=alt.Scale(type="log", nice=False, padding=40),
            axis=alt.Axis(values=sorted(set((frame["parameters"] / 1e6).round(2))), format=".1f"),
        ),
        color=alt.Color("kind:N", scale=alt.Scale(domain=["mixture", "dense"], range=list(theme.PAIR)), legend=None),
    )
    runs = base.mark_point(filled=True, size=60, opacity=0.7).encode(
        y=alt.Y("nats:Q", title="held-out loss, nats a token", scale=alt.Scale(zero=False, nice=True, padding=24)),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("seed:Q", format="d"),
            alt.Tooltip("parameters:Q", format=",d"),
            alt.Tooltip("active:Q", title="at work for a token", format=",d"),
            alt.Tooltip("nats:Q", title="nats a token", format=".3f"),
            alt.Tooltip("bits_per_byte:Q", title="bits a byte", format=".3f"),
        ],
    )
    once = base.transform_filter(f"datum.seed == {int(frame['seed'].min())}").encode(y="mean:Q")
    line = once.transform_filter("datum.experts > 1").mark_line(strokeWidth=2)
    rule = once.transform_filter("datum.experts == 1").encode(x=alt.value(0), x2=alt.value("width"))
    dense = rule.mark_rule(strokeDash=list(theme.DASH), strokeWidth=2)
    return theme.framed(alt.layer(dense, line, runs, *_named_models(base)), theme.MEDIUM)


def _named_models(base: alt.Chart) -> list[alt.Chart]:
    """The name of each model: of a mixture under its best run, of the dense one over its worst."""
    best = base.transform_filter("datum.experts > 1").mark_text(baseline="top", dy=9, fontWeight="bold")
    worst = base.transform_filter("datum.experts == 1").mark_text(baseline="bottom", dy=-9, fontWeight="bold")
    return [
        best.encode(y="min(nats):Q", text="model:N", detail="model:N"),
        worst.encode(y="max(nats):Q", text="model:N", detail="model:N"),
    ]


def _whole() -> alt.Scale:
    return alt.Scale(domain=[0, 1.04], nice=False)


def _colour(field: str, values: tuple[str, ...], colours: tuple[str, ...]) -> alt.Color:
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(values), range=list(colours)), legend=legend)


MEMORY_COMPUTE = Chart(
    "What do a mixture and its dense twins cost?",
    "A mixture needs the memory of the dense network above it, which is as large, and the compute of the one to its "
    "left, which is as fast. On the dashed line all parameters are active.",
    measure=memory_against_compute,
    draw=memory_compute_triangle,
)
PERPLEXITY = Chart(
    "Which network predicts the next word best?",
    "Each line is a run on the same text, and the thick one is that of this page; lower is better. Lines of one kind "
    "differ only by their seed, so two kinds really differ only if all lines of one lie below those of the other.",
    measure=perplexity_by_step,
    draw=perplexity_lines,
)
PAYOFF = Chart(
    "What do more experts bring, at the same compute?",
    "Each point is a small model trained on the same text, and lower is better. All do the same work for a token: to "
    "the right there are more experts to choose two from. The line runs through the means of the seeds; the dashed one "
    "is at the dense model's.",
    measure=loss_by_parameters,
    draw=payoff_curve,
)
