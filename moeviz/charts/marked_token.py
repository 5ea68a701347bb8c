"""One token marked on a picture of many."""

import altair as alt
import pandas as pd

MARK = "#e8590c"  # no expert has this colour


def with_marked_token(chart: alt.Chart, start: int | None) -> alt.LayerChart:
    """`chart`, whose x axis is `theme`'s token axis, with a frame around the column of the token at `start`.

    Without a token the frame is there too and not seen: a picture whose data alone change is redrawn faster, and keeps
    its zoom.
    """
    column = pd.DataFrame(
        {"start": [(start or 0) - 0.5], "end": [(start or 0) + 0.5], "seen": [int(start is not None)]}
    )
    frame = (
        alt.Chart(column)
        .mark_rect(fill=None, stroke=MARK, strokeWidth=3, tooltip=None)
        .encode(x="start:Q", x2="end:Q", strokeOpacity=alt.StrokeOpacity("seen:Q", scale=None))
    )
    height, usermeta = chart.height, chart.usermeta
    inner = chart.copy(deep=True)
    inner.height = inner.width = inner.usermeta = alt.Undefined  # these belong to the whole picture
    return alt.layer(inner, frame).properties(width="container", height=height, usermeta=usermeta)
