"""Charts of what an intervention does, or another word, and of the parts that wrote a router's logits. Not a topic."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.charts.engine_difference import places_map
from moeviz.charts.tokens import token_axis, token_tooltip
from moeviz.metrics.direct_attribution import direct_caption, direct_parts
from moeviz.metrics.effect import effect_by_token, word_change

MANY = 2000  # bars that a browser draws at once
LITTLE = 0.01  # nats: less is drawn as little
FIRST, ALSO = "first choice", "also chosen"


def effect_bars(frame: pd.DataFrame) -> alt.Chart:
    """Draw the change of the next-token distribution, token by token. Columns: those of `effect_by_token`."""
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
EFFECT = Chart.row(effect_bars, effect_by_token)


def word_change_map(frame: pd.DataFrame) -> alt.Chart:
    """Token by layer, orange where the first choice is another one. Columns: those of `word_change`."""
    columns = {"kind": ("with the word changed", ""), "expert": ("as it was", "d"), "other_expert": ("now", "d")}
    return places_map(frame.drop(columns=["row", "other_row", "follows"]), columns)


WORD_CHANGE = Chart.row(word_change_map, word_change)


def direct_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw a bar for what each part wrote of the first choice, a dot for each other choice. Columns: `direct_parts`."""
    is_first = frame["slot"] == frame["slot"].min()
    drawn = frame.assign(which=is_first.map({True: FIRST, False: ALSO}))
    rows = frame.drop_duplicates("place")["part"].tolist()
    base = {
        "y": alt.Y("part:N", sort=rows, title=None, axis=alt.Axis(labelLimit=220)),
        "x": alt.X("above_mean:Q", title="logit, above the mean of all experts", axis=alt.Axis(format="~g")),
        "color": theme.colour("which", [FIRST, ALSO], [theme.MAIN, theme.CHANCE]),
        "tooltip": theme.tooltip(
            part="",
            expert="d",
            logit=("part of its logit", "+.3f"),
            above_mean=("above the mean of all experts", "+.3f"),
        ),
    }
    parts = [theme.bars(drawn[is_first], **base)]
    if not is_first.all():
        parts.append(theme.points(drawn[~is_first], {"filled": True, "size": 45, "opacity": 1}, **base))
    zero = alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=theme.NOTE).encode(x="zero:Q")
    return theme.framed(theme.layered(*parts, zero), theme.rows_height(len(rows)))


DIRECT = Chart.row(direct_bars, direct_parts, direct_caption)
