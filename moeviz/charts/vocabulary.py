"""Charts of which tokens each expert gets. Token texts come from anyone: they are data under the name `shown`."""

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.metrics.tokens import visible
from moeviz.metrics.vocabulary import (
    token_kinds,
    token_kinds_caption,
    top_tokens,
    vocabulary_by_layer,
    vocabulary_caption,
    vocabulary_layers_caption,
    vocabulary_specialization,
)

COLUMNS = 5  # tokens of an expert: on a phone each has room for about eight letters
MOST_EXPERTS = 24  # rows of a table that are still read
MOST_NUMBERS = 8  # experts: more would not leave a number its place on a phone
MOST_LIFT = 4  # a few tokens of a rare kind reach far more, and would leave the rest of the picture one colour
KIND_ROW, KIND_WIDTH, HALF_LINE = 38, 130, 6  # pixels of a kind's two lines
SHARE = "share of the token's occurrences"


def top_tokens_table(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the top tokens of each expert of one layer, coloured by share. Columns: those of `top_tokens`."""
    cells = frame[frame["rank"] <= COLUMNS]
    experts = cells.groupby("expert")["specialization"].sum().nlargest(MOST_EXPERTS).index
    some = "" if len(experts) == cells["expert"].nunique() else f" (the {len(experts)} with the highest shares)"
    cells = cells[cells["expert"].isin(experts)]
    cells = cells.assign(shown=cells["text"].map(visible)).drop(columns=["text", "layer"])
    base = alt.Chart(cells).encode(
        x=alt.X("rank:O", title="tokens of the expert, highest share first", axis=alt.Axis(labels=False)),
        y=alt.Y("expert:O", title=f"expert{some}"),
        tooltip=_token_tooltip(),
    )
    colour = theme.gradient("specialization", SHARE, {"domain": [0, 1]}, format="%", titleLimit=330)
    texts = base.mark_text(limit=alt.expr(f"width / {COLUMNS} - 6")).encode(
        text="shown:N", color=theme.ink_on("specialization")
    )
    return theme.framed(
        theme.layered(base.mark_rect().encode(color=colour), texts), theme.rows_height(len(experts)), canvas=True
    )


def _token_tooltip() -> list[alt.Tooltip]:
    return theme.tooltip(
        shown=("token", ""),
        token_id=("id (-1: not known)", "d"),
        expert="d",
        occurrences=",",
        tokens=("of them routed to this expert", ","),
        specialization=(SHARE, ".1%"),
        chance=("share at random, k / E", ".1%"),
    )


def kinds_heatmap(frame: pd.DataFrame) -> alt.LayerChart:
    """Kind of token by expert of one layer, coloured by lift. Columns: those of `token_kinds`."""
    rows = [f"{kind}|{_tokens(tokens)}" for kind, tokens in zip(frame["kind"], frame["tokens"], strict=True)]
    named = frame.assign(row=pd.Series(rows, dtype="str")).drop(columns="layer")
    axis = alt.Axis(labelExpr="split(datum.label, '|')", labelOffset=-HALF_LINE, labelLimit=KIND_WIDTH)
    base = alt.Chart(named).encode(x=theme.expert_axis(), y=alt.Y("row:N", title=None, sort=None, axis=axis))
    cells = base.mark_rect(stroke=None).encode(
        color=theme.gradient("lift", "lift (1 = no preference)", {"domain": [0, MOST_LIFT], "clamp": True}),
        tooltip=theme.tooltip(
            kind="",
            tokens=("tokens of this kind", ","),
            expert="d",
            assignments=",",
            share=("share of the kind's assignments", ".1%"),
            uniform=("uniform share", ".1%"),
            lift=("lift: kind's share / expert's load", ".2f"),
        ),
    )
    height = KIND_ROW * frame["kind"].nunique() + theme.AROUND
    known = base.transform_filter("isValid(datum.lift)")  # an expert without tokens has none
    numbers = known.mark_text().encode(text=alt.Text("lift:Q", format=".1f"), color=theme.ink_on("lift"))
    written = [numbers] if frame["expert"].nunique() <= MOST_NUMBERS else []
    return theme.framed(theme.layered(cells, *written), height, canvas=True)


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' if count != 1 else ''}"


def vocabulary_of_layers(frame: pd.DataFrame) -> alt.LayerChart:
    """Mean share of a token's main expert, layer by layer, with chance level. Columns: of `vocabulary_by_layer`."""
    base = alt.Chart(frame).encode(
        x=theme.layer_axis("orange: tokens shuffled, grey: k / E"),
        tooltip=theme.tooltip(
            layer="d",
            token_ids=("tokens in the vocabulary", ","),
            specialization=("share at their main expert", ".1%"),
            shuffled=("with tokens shuffled", ".1%"),
            chance=("at random, k / E", ".1%"),
        ),
    )
    y = alt.Y("specialization:Q", title=SHARE, scale=alt.Scale(domain=[0, 1]), axis=theme.share_axis())
    bars = base.mark_bar(color=theme.MAIN).encode(y=y)
    chance, shuffled = theme.ticks(base, "chance", theme.NOTE), theme.ticks(base, "shuffled")
    return theme.framed(theme.layered(bars, chance, shuffled), theme.MEDIUM)


def vocabulary_of_experts(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw how strongly each expert's tokens keep to it in a layer. Columns: those of `vocabulary_specialization`."""
    ids = alt.Scale(domain=[int(expert) for expert in frame["expert"]])
    bars = theme.bars(
        frame.drop(columns="layer"),
        x=theme.expert_axis("dashed: tokens shuffled").scale(ids),
        y=alt.Y("specialization:Q", title=SHARE, scale=alt.Scale(domain=[0, 1]), axis=theme.share_axis()),
        tooltip=theme.tooltip(
            expert="d",
            token_ids=("tokens whose main expert it is", ","),
            specialization=("mean share at this expert", ".1%"),
            shuffled=("with tokens shuffled, whole layer", ".1%"),
            chance=("at random, k / E", ".1%"),
        ),
    )
    return theme.framed(theme.layered(bars, theme.reference(frame[["shuffled"]].head(1), "shuffled")), theme.MEDIUM)


CHARTS = (
    # No caption: the best of many tokens only, so chance cannot be judged; an expert's page judges it.
    Chart.row(top_tokens_table, top_tokens, expert="expert", layers="one"),
    Chart.row(kinds_heatmap, token_kinds, token_kinds_caption, expert="expert", layers="one"),
    Chart.row(vocabulary_of_layers, vocabulary_by_layer, vocabulary_layers_caption),
    Chart.row(vocabulary_of_experts, vocabulary_specialization, vocabulary_caption, expert="expert", layers="one"),
)
