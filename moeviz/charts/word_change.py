"""The chart of one text read twice, with a word of it changed. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts.chart import Chart
from moeviz.charts.engine_difference import places_map
from moeviz.metrics.word_change import word_change


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
CHARTS = (WORD_CHANGE,)
