"""A click on an expert or a pair of layers: pages add it to a chart, since files and notebooks lead nowhere."""

from typing import Any

import altair as alt

EXPERT, PAIR = "expert", "pair"  # names of the selections


def clickable(picture: alt.Chart | alt.LayerChart, fields: list[str], name: str = EXPERT) -> alt.Chart | alt.LayerChart:
    """The picture with a selection of one mark by these columns of its data, and a hand over such marks.

    In a layered picture a click on any mark of it counts; one whose data has no such columns selects nothing.
    """
    chosen = alt.selection_point(name=name, fields=fields, on="click", empty=False)
    return _with_hand(picture, fields[-1], picture.data).add_params(chosen)


def _with_hand(picture: alt.Chart | alt.LayerChart, field: str, above: Any) -> alt.Chart | alt.LayerChart:
    data = above if picture.data is alt.Undefined else picture.data
    picture = picture.copy(deep=False)  # nothing inside is changed, only replaced
    if isinstance(picture, alt.LayerChart):
        picture.layer = [_with_hand(part, field, data) for part in picture.layer]
    elif field in getattr(data, "columns", ()):
        mark = {"type": picture.mark} if isinstance(picture.mark, str) else picture.mark.to_dict()
        picture.mark = alt.MarkDef(**mark | {"cursor": "pointer"})
    return picture
