"""The balance of a sparsely-gated mixture's experts: during training, and as in table 6 of the paper."""

from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import NAMED, theme
from moeviz.history.shared.exhibit import Exhibit, Page, PageControl, words_beside
from moeviz.history.shared.results import WITHOUT_BALANCE, shipped
from moeviz.history.sparsely_gated_2017.model import MEASURES, SparselyGated, trace_of, train

TEXT = words_beside(__file__)
TABLE = Path(__file__).with_name("sweep.csv")
# (w_importance, w_load): CV(importance), CV(load), max / mean load. Shazeer 2017, table 6: 256 experts, 4 for a word.
PRINTED_TABLE = {
    (0.0, 0.0): (3.04, 3.01, 17.80),
    (0.2, 0.0): (0.06, 0.17, 1.47),
    (0.0, 0.2): (0.22, 0.04, 1.15),
    (0.1, 0.1): (0.06, 0.05, 1.14),
    (0.01, 0.01): (0.48, 0.11, 1.37),
    (1.0, 1.0): (0.03, 0.02, 1.07),
}
EVEN = dict(zip(MEASURES, (0.0, 0.0, 1.0, 1.0), strict=True))  # where all experts are equally busy
COMPARED = (16, 2, 0)  # experts, top-k and groups of what ships
NO_LOSS = "max / mean words, without losses"
TOGETHER = 10  # steps of training that make a point of the curve


def balance_by_step(result: SparselyGated) -> pd.DataFrame:
    """Return the load of the busiest expert relative to the mean, during the training of a sparsely-gated mixture.

    "max / mean load" is that of Load(X), equation 10, which the loss pushes towards uniform; "max / mean words" counts
    the words that each expert was given. Both are computed from the words of one step, including the noise, and
    averaged over ten consecutive steps. Uniform is 1. Gates start at 0, so the first words are divided at random, which
    is not quite uniform.

    A run with losses is compared with the one without them that ships, by words, if it has as many experts.

    One row per ten steps and measure. Columns: step int32 (the last of the ten, from 1) · measure str · value float64 ·
    even float64 (1).

    Source: Shazeer et al. (arXiv 1701.06538), table 6, last column, which has it after training.
    """
    lines = _by_ten(result, MEASURES[2:])
    if without := _without_losses(result):
        lines = pd.concat([lines, _by_ten(without, MEASURES[3:]).assign(measure=NO_LOSS)], ignore_index=True)
    return lines.astype({"measure": "str"}).assign(even=1.0)


def _by_ten(result: SparselyGated, names: tuple[str, ...]) -> pd.DataFrame:
    """Return the means of ten steps of training, and of the rest at its end: the last of MEASURES, named `names`."""
    last = np.append(np.arange(TOGETHER, len(result.balance), TOGETHER), len(result.balance))
    each = np.split(result.balance[:, -len(names) :].astype(np.float64), last[:-1])
    values = np.stack([steps.mean(axis=0) for steps in each])
    steps = np.repeat(last.astype(np.int32), len(names))
    return pd.DataFrame({"step": steps, "measure": np.tile(names, len(last)), "value": values.ravel()})


def _without_losses(result: SparselyGated) -> SparselyGated | None:
    """Return the run without losses that ships, if this one has losses and otherwise differs only in its seed."""
    settings = result.settings
    alike = (settings["experts"], settings["top_k"], settings["groups"]) == COMPARED
    return shipped(SparselyGated, WITHOUT_BALANCE) if alike and settings["importance"] + settings["load"] > 0 else None


def shipped_table() -> pd.DataFrame:
    """Trainings under each of the six pairs of loss weights of table 6, with three seeds each.

    One row per pair and seed. Columns: importance, load float64 (weights of the losses) · seed int64 · the four of
    `MEASURES` float64 (means of the last 20 steps) · perplexity float64 (on held-out words).
    """
    return pd.read_csv(TABLE)


def beside_paper(runs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the imbalance of 16 experts here under six pairs of loss weights, and of the 256 of the paper's table 6.

    CV is the coefficient of variation, standard deviation / mean, over the experts: of Importance(X), the sums of their
    weights (equation 6), and of Load(X), a smooth count of their words (equation 10). "max / mean load" is the load of
    the busiest expert divided by the mean. Our numbers are from batches of 1,024 words with noise, averaged over the
    last 20 steps and then over all seeds. Numbers for 256 experts and for 16 are not the same thing: with 16, and 2 per
    word, none can have more than 8 times the mean. What can be compared is which pair is closer to uniform.

    `runs` have the columns of `shipped_table`, and are those by default. One row per pair and measure. Columns: setting
    str (the weights in words) · measure str · ours float64 (mean of the seeds) · lowest, highest float64 (of the seeds)
    · paper float64 · even float64 (0, or 1 for max / mean) · seeds int64 (how many).

    Source: Shazeer et al. (arXiv 1701.06538), table 6, of which these are the last three columns.
    """
    runs = shipped_table() if runs is None else runs
    rows = []
    for column, measure in enumerate(MEASURES[:3]):
        for pair, printed in PRINTED_TABLE.items():
            values = runs.loc[(runs["importance"] == pair[0]) & (runs["load"] == pair[1]), measure]
            of_seeds = {"ours": values.mean(), "lowest": values.min(), "highest": values.max()}
            facts = {"setting": setting(*pair), "measure": measure, **of_seeds, "paper": printed[column]}
            rows.append(facts | {"even": EVEN[measure], "seeds": len(values)})
    return pd.DataFrame(rows).astype({"setting": "str", "measure": "str"})


def setting(importance: float, load: float) -> str:
    """Return a pair of loss weights in words.

    >>> setting(0.0, 0.0), setting(0.2, 0.0), setting(0.1, 0.1)
    ('no loss', 'importance 0.2', 'both 0.1')
    """
    if importance == load:
        return f"both {load:g}" if load else "no loss"
    weights = {"importance": importance, "load": load}
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)


OURS, PAPER = "16 experts, here", "256 experts, paper"
HEADINGS = {"CV(importance)": "CV(importance)", "CV(load)": "CV(load)", "max / mean load": "max / mean load − 1"}
TICKS = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
ENDS = ("lowest", "highest")
ROW = 22  # pixels


def balance_dots(frame: pd.DataFrame) -> alt.LayerChart:
    """Return the imbalance of the experts by loss weights, here and in the paper. Columns: of `beside_paper`."""
    headings = frame["measure"].map(HEADINGS)
    placed = frame.assign(row=headings + "|" + frame["setting"], whose=OURS, uneven=frame["ours"] - frame["even"])
    placed = placed.assign(
        **{f"{end}_seed": frame[end] for end in ENDS}, **{end: frame[end] - frame["even"] for end in ENDS}
    )
    theirs = placed.assign(whose=PAPER, uneven=frame["paper"] - frame["even"])
    blocks = placed.groupby("measure", sort=False)["row"]  # a measure's name on a row of its own, then its settings
    rows = [row for measure, settings in blocks for row in (f"{HEADINGS[measure]}|", *settings)]
    y = alt.Y("row:N", title=None, scale=alt.Scale(domain=rows), axis=_rows_axis())
    scale = alt.Scale(type="log", domain=[TICKS[0] * 0.8, TICKS[-1]], nice=False)
    axis = alt.Axis(values=TICKS, format="~g", labelOverlap=True)
    x = alt.X("uneven:Q", title="distance from uniform (uniform is 0, far left)", scale=scale, axis=axis)
    between = alt.Chart(placed.assign(theirs=theirs["uneven"])).mark_rule(color=theme.NOTE, opacity=0.5)
    ranges = alt.Chart(placed).mark_rule(color=theme.PAIR[0], strokeWidth=5, opacity=0.5)
    dots = theme.points(
        pd.concat([placed, theirs]),
        {"filled": True, "size": 70, "opacity": 1},
        x=x,
        y=y,
        color=theme.colour("whose", [OURS, PAPER], theme.PAIR, columns=1),
        shape=theme.named(alt.Shape, "whose", [OURS, PAPER], ["circle", "diamond"], columns=1),
        tooltip=_tooltip(),
    )
    spans = ranges.encode(x=alt.X("lowest:Q", scale=scale), x2="highest:Q", y=y)
    return theme.framed(between.encode(x=x, x2="theirs:Q", y=y) + spans + dots, ROW * len(rows) + 110)


def _rows_axis() -> alt.Axis:
    named = "split(datum.label, '|')[1] ? split(datum.label, '|')[1] : split(datum.label, '|')[0]"
    bold = alt.condition("split(datum.value, '|')[1] == ''", alt.value("bold"), alt.value("normal"))
    return alt.Axis(labelExpr=named, labelFontWeight=bold, labelLimit=140, labelFlush=False, ticks=False, domain=False)


def _tooltip() -> list[alt.Tooltip]:
    seeds = {"lowest_seed": "lowest of the seeds", "highest_seed": "highest"}
    return [
        *theme.tooltip(measure="", setting=("losses", "")),
        *theme.figures(".2f", ours=OURS, **seeds, paper=PAPER, even="even"),
        *theme.tooltip(seeds=("seeds", "d")),
    ]


def busiest_over_steps(frame: pd.DataFrame) -> alt.LayerChart:
    """Compute the busiest expert's load during training, by smooth load and by words. Columns: of `balance_by_step`."""
    measures = list(frame["measure"].unique())
    lines = theme.lines(
        frame,
        {"strokeWidth": 2},
        x=alt.X("step:Q", title="training step (dashed: uniform)", scale=alt.Scale(nice=False)),
        y=alt.Y("value:Q", title="busiest expert / mean", scale=alt.Scale(domainMin=1)),
        color=theme.colour("measure", measures, [*theme.PAIR, theme.OTHER][: len(measures)], columns=2, labelLimit=280),
        tooltip=theme.tooltip(measure="", step=("up to step", "d"), value=("busiest / mean", ".2f")),
    )
    return theme.framed(lines + theme.reference(frame[["even"]].head(1), "even", theme.NOTE), theme.MEDIUM)


BALANCE_TABLE = TEXT.chart(beside_paper, balance_dots)
BUSIEST_EXPERT = TEXT.chart(balance_by_step, busiest_over_steps)


def picture(page: Page, result: SparselyGated) -> None:
    """Draw the share of the busiest expert while it trains, with the losses and without them."""
    page.chart(BUSIEST_EXPERT, result)


def details(page: Page, result: SparselyGated) -> None:
    """Draw the perplexity and the balance at the end, and table 6 of the paper next to ours."""
    balance = {name: f"{value:.2f}" for name, value in result.at_end().items()}
    page.figures(TEXT.figures({"Perplexity": f"{result.perplexity:.1f}"} | balance))
    page.chart(BALANCE_TABLE)


GROUPS = {"one level": 0, "4 groups": 4}


def settings_of(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `train`: a pair of weights, and the number of groups."""
    importance, load = chosen["losses"]
    sizes = {name: chosen[name] for name in ("experts", "top_k")}
    return sizes | {"importance": importance, "load": load, "groups": GROUPS[chosen["groups"]]}


EXHIBIT = Exhibit(
    choices=(
        PageControl("experts", "Experts", (8, 16, 32), 16, width=140),
        PageControl("top_k", "Top-k", (1, 2), 2, width=90, help="At each level.", key="k"),
        PageControl(
            "losses",
            "Losses",
            tuple(PRINTED_TABLE),
            (0.1, 0.1),
            kind="list",
            width=160,
            help="The weights of the two losses: those of table 6 of the paper.",
            written=lambda pair: setting(*pair),
        ),
        PageControl(
            "groups",
            "Gates",
            tuple(GROUPS),
            kind="list",
            width=140,
            help="A primary gate chooses groups, and a gate in each group chooses experts: appendix B of the paper.",
        ),
    ),
    settings=settings_of,
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=((BALANCE_TABLE, lambda: (shipped_table(),)), (BUSIEST_EXPERT, lambda: (shipped(SparselyGated),))),
    trace_charts=(NAMED["top_tokens_table"],),
)
