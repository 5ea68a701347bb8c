"""One token marked on a picture of many."""

import altair as alt
import pandas as pd

from moeviz.charts import theme


def with_marked_token(chart: alt.Chart, start: int | None) -> alt.LayerChart:
    """`chart`, whose x axis is `theme`'s token axis, with a frame around the column of the token at `start`.

    Without a token, or with one that the picture does not show, the frame is there too and not seen: a picture whose
    data alone change is redrawn faster, and keeps its zoom. It stays within the axis, or the picture would shrink.
    """
    seen = start is not None and bool((chart.data["start"] == start - 0.5).any())
    left = start - 0.5 if seen else float(chart.data["start"].min())
    column = pd.DataFrame({"start": [left], "end": [left + 1], "seen": [int(seen)]})
    frame = (
        alt.Chart(column)
        .mark_rect(fill=None, stroke=theme.ACCENT, strokeWidth=3, tooltip=None)
        .encode(x="start:Q", x2="end:Q", strokeOpacity=alt.StrokeOpacity("seen:Q", scale=None))
    )
    height, usermeta = chart.height, chart.usermeta
    inner = chart.copy(deep=True)
    inner.height = inner.width = inner.usermeta = alt.Undefined  # these belong to the whole picture
    return alt.layer(inner, frame).properties(width="container", height=height, usermeta=usermeta)
