"""Charts of what an intervention does, or another word. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.engine_difference import places_map
from moeviz.charts.tokens import token_axis, token_tooltip
from moeviz.metrics.effect import effect_by_token, word_change

MANY = 2000  # bars that a browser draws at once
LITTLE = 0.01  # nats: less is drawn as little


def effect_bars(frame: pd.DataFrame) -> alt.Chart:
    """How far the next-token distribution moves, token by token. Columns: those of `effect_by_token`."""
    columns = ["sequence", "position", "text", "token", "kl", "loss_change", "another"]
    cells, x = token_axis(frame[columns].head(MANY))
    highest = max(float(frame["kl"].max()), LITTLE)
    bars = (
        alt.Chart(cells)
        .mark_rect()
        .encode(
            x=x,
            x2="end:Q",
            y=alt.Y(
                "kl:Q", title="change of the next-token distribution, nats (KL)", scale=alt.Scale(domain=[0, highest])
            ),
            y2=alt.datum(0),
            color=theme.colour("another", [False, True], theme.PAIR, title="most likely next token", labelExpr=LABELS),
            tooltip=[
                *token_tooltip()[:2],
                *theme.tooltip(kl=("KL, nats", ".4f"), loss_change=("change in this token's loss, nats", "+.4f")),
            ],
        )
    )
    return theme.framed(bars, theme.MEDIUM, canvas=True)


LABELS = "datum.label == 'true' ? 'a different one' : 'the same'"
EFFECT = Chart(
    "Where does the change alter the prediction?",
    "Each bar is a token and shows how far the distribution of the next token moves; it is orange if a different next "
    "token becomes the most likely.",
    measure=effect_by_token,
    draw=effect_bars,
)


def word_change_map(frame: pd.DataFrame) -> alt.Chart:
    """Token by layer, orange where the first choice is another one. Columns: those of `word_change`."""
    columns = {"kind": ("with the word changed", ""), "expert": ("as it was", "d"), "other_expert": ("now", "d")}
    return places_map(frame.drop(columns=["row", "other_row", "follows"]), columns)


WORD_CHANGE = Chart(
    "Which first choices does the word change?",
    "Each cell is a token that both texts have, at a layer: orange where its first choice is another one with the word "
    "changed. Hover to see both.",
    measure=word_change,
    draw=word_change_map,
)
