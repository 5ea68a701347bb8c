"""Charts of routes: experts that take the same contexts, in a plane. Not a topic."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.atlas import kind_colours
from moeviz.charts.chart import Chart
from moeviz.metrics.paths import ExpertMap
from moeviz.metrics.tokens import visible

FEW = 100  # experts: of more, dots are small, without clouds and ids
HIGH = 560  # pixels


def expert_map_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """Experts in a plane, lines to their true neighbours, and clouds of resamples. Columns: those of `rows`."""
    rows = frame.assign(kind=frame["kind"].map(visible))
    experts = rows.drop_duplicates(["layer", "expert"])
    experts = experts.assign(id=experts["layer"].astype("str") + "·" + experts["expert"].astype("str"))
    few, kinds = len(experts) <= FEW, rows["kind"].drop_duplicates().tolist()
    scale = alt.Scale(zero=False, nice=False)
    own = {"x": alt.X("x:Q", axis=None, scale=scale), "y": alt.Y("y:Q", axis=None, scale=scale)}
    to = {"x": alt.X("to_x:Q", axis=None, scale=scale), "y": alt.Y("to_y:Q", axis=None, scale=scale)}
    color = theme.colour("kind", kinds, kind_colours(len(kinds)), title="takes most of", columns=4, symbolOpacity=1)
    near = rows[rows["what"] == "neighbour"]
    tips = theme.tooltip(layer="d", other=("nearest in truth", ""), distance=("distance", ".2f"))
    lines = alt.Chart(near).mark_rule(color=theme.NOTE, opacity=0.5 if few else 0.15)
    lines = lines.encode(**own, x2="to_x:Q", y2="to_y:Q", tooltip=tips)
    others = near.groupby(["layer", "expert"], sort=False)["other"].agg(", ".join).rename("near")
    experts = experts.merge(others, on=["layer", "expert"])
    look = {"filled": True, "opacity": 1, "size": 380 if few else 24, "cursor": "pointer"}
    tips = [
        *theme.tooltip(layer="d", expert="d"),
        *theme.tooltip(kind=("takes most of", ""), near=("nearest in truth", "")),
        *theme.tooltip(spread=("root mean square over resamples", ".3f")),
    ]
    columns = ["layer", "expert", "kind", "x", "y", "spread", "near", "id"]
    dots = theme.points(experts[columns], look, **own, color=color, tooltip=tips)
    parts = [lines, dots]
    if few:
        clouds = rows.loc[rows["what"] == "resample", ["kind", "to_x", "to_y"]]
        parts.insert(0, theme.points(clouds, {"filled": True, "opacity": 0.12, "size": 60}, **to, color=color))
        text = alt.Chart(experts[columns]).mark_text(fontSize=10, color="black", cursor="pointer")
        parts.append(text.encode(**own, text="id:N", tooltip=tips))
    return theme.framed(alt.layer(*parts), HIGH, canvas=True)


MAP = Chart(
    "Which experts take the same contexts?",
    "Each dot is an expert (layer·expert), coloured by the kind of text that it takes most of. Experts that stand "
    "close take tokens of the same kinds and classes. Lines lead to the three nearest in truth, since the plane is "
    "wrong about many of them. Pale dots are where the expert would be with other texts. Click an expert to see it.",
    measure=ExpertMap.rows,
    draw=expert_map_plane,
    expert="expert",
)
