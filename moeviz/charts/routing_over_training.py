"""How routing settled over several checkpoints of one training run. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.routing_over_training import saturation_over_training


def saturation_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of the final experts by training tokens, a line per layer. Columns: those of `saturation_over_training`."""
    frame = frame[frame["choice"] == frame["choice"].iloc[0]]
    first = int(frame.loc[frame["training_tokens"] > 0, "training_tokens"].min()) if len(frame) > 1 else 1
    scale = alt.Scale(type="log", nice=False)
    if (frame["training_tokens"] == 0).any():  # as runs that were watched from their first step
        scale = alt.Scale(type="symlog", constant=first, nice=False)
    tokens = alt.X("training_tokens:Q", title="training tokens (dashed: chance)", scale=scale)
    lines = theme.lines(
        frame,
        {"point": True},
        x=tokens.axis(format="~s", grid=False),
        y=alt.Y("saturation:Q", title="share of the final experts", axis=theme.share_axis()),
        color=theme.layer_colour(),
        detail="layer:N",
        tooltip=theme.tooltip(
            training_tokens=("training tokens", ","),
            layer="d",
            saturation=("share of the final experts", ".1%"),
            chance=("at random", ".1%"),
            load_chance=("with tokens matched at random", ".1%"),
        ),
    )
    return theme.framed(theme.layered(lines, theme.reference(frame.head(1), "chance")), theme.MEDIUM)


SATURATION = Chart(
    "When did the routing of each layer settle?",
    "Each line is a layer and shows what share of a token's final experts had already been chosen after so many "
    "training tokens.",
    measure=saturation_over_training,
    draw=saturation_curve,
)
