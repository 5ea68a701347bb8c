"""Charts of two checkpoints, by the weights of their experts. Not a topic, since a topic is about one trace."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.lineage import WHAT, expert_fates, lineage_pairs

COLOURS = dict(
    zip(
        WHAT,
        (
            "#4a8fd0",
            "#88CCEE",
            "#44AA99",
            "#999933",
            "#DDCC77",
            "#117733",
            "#AA4499",
            theme.OTHER,
            "#882255",
            "#CC6677",
        ),
        strict=True,
    )
)
WORDS = ("MLP", "no match", "cut")  # on axes of experts' numbers, after them


def expert_fates_map(frame: pd.DataFrame) -> alt.Chart:
    """Layer by expert of the base, coloured by what became of it. Columns: those of `expert_fates`."""
    chart = theme.cells(
        frame,
        x=theme.expert_axis("of the base"),
        y=theme.layer_rows(),
        color=_colour(frame),
        tooltip=theme.tooltip(layer="d", expert="d", what="", children=("experts that come from it", "d")),
    )
    return theme.framed(chart, theme.rows_height(frame["layer"].nunique()), canvas=True)


def lineage_grid(frame: pd.DataFrame) -> alt.Chart:
    """Experts of the base by experts of the child, a mark where one comes from the other. Columns: `lineage_pairs`."""
    axis = theme.ids_axis()
    chart = theme.cells(
        frame,
        x=alt.X("child:N", title="expert of the child", axis=axis, scale=alt.Scale(domain=_in_order(frame["child"]))),
        y=alt.Y("base:N", title="expert of the base", axis=axis, scale=alt.Scale(domain=_in_order(frame["base"]))),
        color=_colour(frame),
        tooltip=theme.tooltip(
            child=("expert of the child", ""),
            base=("expert of the base", ""),
            what="",
            part=("its part", ".3f"),
            similarity=("cosine with the source", ".4f"),
            difference=("distance, of the source's norm", ".4f"),
        ),
    )
    return theme.framed(chart, theme.grid_height(frame["base"].nunique()), canvas=True)


def _colour(frame: pd.DataFrame) -> alt.Color:
    present = [what for what in WHAT if what in set(frame["what"])]
    return theme.colour("what", present, [COLOURS[what] for what in present], columns=4)


def _in_order(names: pd.Series) -> list[str]:
    return sorted(set(names), key=lambda name: (name in WORDS, int(name) if name not in WORDS else WORDS.index(name)))


FATES = Chart.row(expert_fates_map, expert_fates)
GRID = Chart.row(lineage_grid, lineage_pairs)
