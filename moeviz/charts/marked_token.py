"""One token marked on the map of token by layer, and its columns to click."""

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.token_layer_map import facts_of

CELL = "cell"  # the selection, by the columns' `token`


def with_marked_token(chart: alt.LayerChart, frame: pd.DataFrame, place: int | None) -> alt.LayerChart:
    """`chart`, which is the map of this `frame` of `token_choices`, with a frame around the token at `place`.

    Without a token, the frame is there too and not seen: a picture whose data alone change is redrawn faster.
    """
    facts = facts_of(frame)
    token = np.arange(len(facts.names), dtype=np.int32)
    start = (token - 0.5).astype(np.float32)
    columns = pd.DataFrame(
        {"token": token, "start": start, "end": start + 1, "shown": facts.names, "position": facts.positions}
    )
    tips = [alt.Tooltip("shown:N", title="token"), alt.Tooltip("position:Q", format="d")]
    clicked = alt.selection_point(name=CELL, fields=["token"], on="click", empty=False)
    places = alt.Chart(columns).mark_rect(opacity=0).encode(x="start:Q", x2="end:Q", tooltip=tips).add_params(clicked)
    marked = columns.iloc[[place or 0]][["start", "end"]].assign(seen=int(place is not None))
    mark = alt.Chart(marked).mark_rect(fill=None, stroke=theme.ACCENT, strokeWidth=3, tooltip=None)
    frames = mark.encode(x="start:Q", x2="end:Q", strokeOpacity=alt.StrokeOpacity("seen:Q", scale=None))
    return chart + frames + places
