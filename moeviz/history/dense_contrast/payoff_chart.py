"""Why anybody makes a mixture, drawn: loss against parameters at the same compute."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.dense_contrast.payoff import loss_by_parameters


def payoff_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """A point a run, and a line through the means. Columns: those of `loss_by_parameters`."""
    says = frame["experts"].map(lambda count: "dense" if count == 1 else f"{count} experts")
    base = alt.Chart(frame.assign(model=says, millions=frame["parameters"] / 1e6)).encode(
        x=alt.X(
            "millions:Q",
            title="parameters in all, millions",
            scale=alt.Scale(type="log", nice=False, padding=24),
            axis=alt.Axis(values=sorted(set((frame["parameters"] / 1e6).round(2))), format=".1f"),
        )
    )
    loss = alt.Y("nats:Q", title="held-out loss, nats a token", scale=alt.Scale(zero=False, nice=True, padding=12))
    runs = base.mark_point(filled=True, size=60, opacity=0.7, color=theme.PAIR[0]).encode(
        y=loss,
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("seed:Q", format="d"),
            alt.Tooltip("parameters:Q", format=",d"),
            alt.Tooltip("active:Q", title="at work for a token", format=",d"),
            alt.Tooltip("nats:Q", title="nats a token", format=".3f"),
            alt.Tooltip("bits_per_byte:Q", title="bits a byte", format=".3f"),
        ],
    )
    once = base.transform_filter(f"datum.seed == {int(frame['seed'].min())}").encode(y=alt.Y("mean:Q"))
    line = once.mark_line(color=theme.PAIR[0], strokeWidth=2)
    names = once.mark_text(align="center", dy=-16, fontWeight="bold").encode(text="model:N")
    return theme.framed(alt.layer(line, runs, names), theme.MEDIUM)


PAYOFF = Chart(
    "What do more experts bring, at the same compute?",
    "Each point is a small model trained on the same text; the line runs through the means of its seeds, and lower is "
    "better. All do the same work for a token: to the right there are more experts to choose two from.",
    measure=loss_by_parameters,
    draw=payoff_curve,
)
