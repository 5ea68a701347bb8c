"""The exhibit of Switch: words dropped by capacity factor, by expert, and by their place in the batch."""

import math
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import NAMED, theme
from moeviz.history.shared.exhibit import LOAD_BY_LABEL, Exhibit, Page, PageControl, words_beside
from moeviz.history.shared.results import shipped
from moeviz.history.switch_2021.model import EXPERTS, SEQUENCES, WORDS, Switch, capacity, trace_of, train

TEXT = words_beside(__file__)
EARLY, LATE = slice(20), slice(-50, None)  # steps: the first 20 and the last 50
WINDOW = 10  # steps of training in one point of a line
CAPACITY_FACTORS = (1.0, 1.25, 2.0)  # Table 1
AUX_WEIGHTS = (1e-2, 0.0)  # the paper's, and none
Kind = dict[str, float | bool]  # arguments of `train`
TWIN: Kind = {"dense": True}
KINDS = (*({"aux_weight": w, "capacity_factor": c} for w in AUX_WEIGHTS for c in CAPACITY_FACTORS), TWIN)
SEEDS = (0, 1)
SWEEP = Path(__file__).with_name("sweep.csv")
LARGE_LOGITS = Path(__file__).with_name("large_logits.csv")  # `large_logits` of the run that ships
THIS_RUN, OTHERS = "the run on this page", "runs that ship"


def shipped_sweep() -> pd.DataFrame:
    """Runs of each kind of Switch Transformer, and of the dense twin, with 8 experts and the default settings.

    One row per run and ten steps. Columns: dense bool · capacity_factor, aux_weight float64 (NaN in the twin) · seed
    int64 · step int64 (the first of the ten, from 0) · dropped float64 (share of the words of these steps) · perplexity
    float64 (of the run, when it was trained, on held-out words).

    Source: Fedus, Zoph & Shazeer (arXiv 2101.03961), section 2.2; Table 1 has these capacity factors.
    """
    return pd.read_csv(SWEEP)


def twin_perplexity(runs: pd.DataFrame) -> float:
    """Return the dense twin's perplexity on held-out words, the mean over the seeds of a sweep."""
    return float(runs.loc[runs["dense"]].groupby("seed")["perplexity"].first().mean())


def drop_rates(result: Switch, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the share of words dropped during training: in one run, next to a sweep over capacity factors.

    A word is dropped if the expert chosen for it already has as many words of the batch as its capacity, ⌈words /
    experts · capacity factor⌉. `by_lot` is the share that would be dropped if each word's expert were chosen at random.
    Lines of the sweep are means over its seeds.

    One row per line and ten steps. Columns: run str · capacity_factor, aux_weight float64 · step int64 (the first of
    the ten, from 0) · dropped float64 (share of the words) · by_lot float64 (share of the words).

    Source: Fedus, Zoph & Shazeer (arXiv 2101.03961), section 2.2, equation 3.
    """
    settings = {name: float(result.settings[name]) for name in ("capacity_factor", "aux_weight")}
    mine = by_window(result).assign(run=THIS_RUN, **settings)
    lines = runs[~runs["dense"]].groupby([*settings, "step"], as_index=False)["dropped"].mean().assign(run=OTHERS)
    frame = pd.concat([lines, mine], ignore_index=True).astype({"run": "str"})
    experts = np.where(frame["run"] == THIS_RUN, result.settings["experts"], EXPERTS)
    factors = frame["capacity_factor"]
    shares = {pair: dropped_by_lot(*pair) for pair in set(zip(experts.tolist(), factors, strict=True))}
    by_lot = [shares[pair] for pair in zip(experts.tolist(), factors, strict=True)]
    return frame.assign(by_lot=by_lot)[["run", "capacity_factor", "aux_weight", "step", "dropped", "by_lot"]]


def expert_queues(result: Switch) -> pd.DataFrame:
    """Count the held-out words, of about 1,000, that choose each expert, and those that exceed its capacity.

    The words are one group: capacity, ⌈words / experts · capacity factor⌉, is counted over all of them, first come,
    first served. Shares are shares of words, each of which goes to one expert, so they sum to 1.

    One row per expert and fate. Columns: expert int16 · fate str (served or dropped) · words int64 · share float64 ·
    capacity int64 (words) · even float64 (words, if all experts had the same number).

    Source: Fedus, Zoph & Shazeer (arXiv 2101.03961), section 2.2, figure 3 and equation 3.
    """
    experts, words = result.logits.shape[1], len(result.words)
    room = capacity(words, experts, result.settings["capacity_factor"])
    fates = {"served": ~result.dropped, "dropped": result.dropped}
    counts = np.concatenate([np.bincount(result.chosen[of], minlength=experts) for of in fates.values()])
    columns = {"expert": np.tile(np.arange(experts, dtype=np.int16), 2), "fate": np.repeat(list(fates), experts)}
    columns |= {"words": counts, "share": counts / words, "capacity": room, "even": words / experts}
    return pd.DataFrame(columns).astype({"fate": "str"})


def dropped_by_place(result: Switch) -> pd.DataFrame:
    """Return the share of dropped words by their sequence's place in the batch, early and late in training.

    Experts serve the words of a batch in order, so those at its end find the experts full. Early means the first 20
    steps, late the last 50. The sequences of a batch are drawn at random: only their place distinguishes them.

    One row per stage and sequence. Columns: stage str · sequence int64 (place in the batch, from 1) · dropped float64
    (share of the words at this place) · mean float64 (share of all words of the stage).

    Source: the order is that of the paper's pseudocode (arXiv 2101.03961, appendix F); the chart is our own.
    """
    stages = {"first 20 steps": EARLY, "last 50 steps": LATE}
    frames = []
    for stage, steps in stages.items():
        share = result.dropped_by_step[steps].mean(axis=0) / WORDS
        columns = {"sequence": np.arange(1, SEQUENCES + 1), "dropped": share, "mean": share.mean()}
        frames.append(pd.DataFrame({"stage": stage} | columns))
    return pd.concat(frames, ignore_index=True).astype({"stage": "str"})


def dropped_by_lot(experts: int, capacity_factor: float, words: int = SEQUENCES * WORDS) -> float:
    """Return the share of words dropped on average if each word's expert is chosen at random.

    E · E[max(0, n − C)] / words, n binomial with chance 1 / E, C the capacity.

    >>> round(dropped_by_lot(experts=2, capacity_factor=1.0, words=2), 6)
    0.25
    """
    if experts == 1:
        return max(0.0, 1 - capacity(words, 1, capacity_factor) / words)
    n = np.arange(words + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(n[1:]))])
    log_chance = log_factorial[-1] - log_factorial - log_factorial[::-1] - words * math.log(experts)
    log_chance += (words - n) * math.log(experts - 1)
    over = np.maximum(0, n - capacity(words, experts, capacity_factor))
    return float(experts * (np.exp(log_chance) * over).sum() / words)


def by_window(result: Switch) -> pd.DataFrame:
    """Return the share of words dropped, by ten steps. Columns: step int64 (the first of the ten) · dropped float64."""
    dropped = pd.Series(result.dropped_by_step.mean(axis=1) / WORDS)
    first = dropped.index // WINDOW * WINDOW
    return dropped.groupby(first).mean().rename_axis("step").reset_index(name="dropped")


DASHES = ([1, 0], [6, 4], [2, 3])  # of the capacity factors, lowest first
FATES = ("served", "dropped")


def queues_of_experts(frame: pd.DataFrame) -> alt.LayerChart:
    """Words routed to each expert, served and dropped, with its capacity. Columns: those of `expert_queues`."""
    bars = theme.bars(
        frame.assign(order=frame["fate"].map(FATES.index)),
        x=theme.expert_axis("dashed: its capacity"),
        y=alt.Y("words:Q", title="words routed to it"),
        color=theme.colour("fate", FATES, theme.PAIR),
        order="order:Q",
        tooltip=theme.tooltip(
            expert="d",
            fate="",
            words=",",
            share=("share of all words", ".1%"),
            capacity=("capacity, words", ","),
            even=("uniform share, words", ",.0f"),
        ),
    )
    room = theme.reference(frame[["capacity"]].head(1), "capacity", theme.NOTE)
    return theme.framed(bars + room, theme.MEDIUM)


def drop_rate_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw the share of dropped words in training, by capacity factor and aux weight. Columns as in `drop_rates`."""
    others, mine = (frame[frame["run"] == run] for run in (OTHERS, THIS_RUN))
    factors, weights = sorted(others["capacity_factor"].unique()), sorted(others["aux_weight"].unique(), reverse=True)
    colour = theme.colour("aux_weight", weights, theme.PAIR, title="aux weight")
    legend = {"title": "capacity factor", "symbolStrokeColor": theme.NOTE}
    dash = theme.named(alt.StrokeDash, "capacity_factor", factors, DASHES, **legend)
    lines = _over_steps(others).mark_line(strokeWidth=2).encode(color=colour, strokeDash=dash)
    wide = _over_steps(mine).mark_line(strokeWidth=7, color=theme.NOTE, opacity=0.6)
    by_lot = theme.reference(mine[["by_lot"]].head(1), "by_lot", theme.NOTE)
    return theme.framed(alt.layer(wide, lines, by_lot), theme.MEDIUM + 60)


def _over_steps(frame: pd.DataFrame) -> alt.Chart:
    return alt.Chart(frame).encode(
        x=alt.X("step:Q", title="training step (dashed grey: at random)", scale=alt.Scale(nice=False)),
        y=alt.Y("dropped:Q", title="share of words dropped", axis=theme.share_axis()),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("capacity_factor:Q", title="capacity factor"),
            alt.Tooltip("aux_weight:Q", title="aux weight"),
            *theme.tooltip(step=("from step", "d"), dropped=("words dropped", ".1%"), by_lot=("at random", ".1%")),
        ],
    )


def dropped_by_place_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of dropped words by place in the batch, early and late, with the means. Columns: of `dropped_by_place`."""
    stages = theme.colour("stage", frame["stage"].unique(), reversed(theme.PAIR))
    base = alt.Chart(frame).encode(color=stages)
    lines = base.mark_line(strokeWidth=2, point=True).encode(
        x=alt.X("sequence:Q", title="place of the sequence in the batch (dashed: mean)", scale=alt.Scale(nice=False)),
        y=alt.Y("dropped:Q", title="share of its words dropped", axis=theme.share_axis()),
        tooltip=theme.tooltip(
            stage="", sequence=("place", "d"), dropped=("words dropped", ".1%"), mean=("mean over all places", ".1%")
        ),
    )
    means = base.mark_rule(strokeDash=list(theme.DASH), strokeWidth=2).encode(y="mean:Q")
    return theme.framed(lines + means, theme.MEDIUM)


EXPERT_QUEUES = TEXT.chart(expert_queues, queues_of_experts)
DROP_RATES = TEXT.chart(drop_rates, drop_rate_lines)
DROPPED_BY_PLACE = TEXT.chart(dropped_by_place, dropped_by_place_lines)


def picture(page: Page, result: Switch) -> None:
    """Draw how the experts fill up."""
    page.chart(EXPERT_QUEUES, result)


def details(page: Page, result: Switch) -> None:
    """Draw how much is dropped and when, and the perplexity, compared with the dense twin's."""
    runs = shipped_sweep()
    figures = {
        "Dropped early": f"{result.drop_rate(EARLY):.0%}",
        "Dropped late": f"{result.drop_rate(LATE):.1%}",
        "Dropped in test": f"{result.held_out_dropped:.1%}",
        "Perplexity": f"{result.perplexity:.1f}",
        "Dense twin": f"{twin_perplexity(runs):.1f}",
    }
    page.figures(TEXT.figures(figures))
    page.markdown(_why_so_many_are_dropped(result))
    page.chart(DROP_RATES, result, runs)
    page.chart(DROPPED_BY_PLACE, result)
    if not result.settings["dense"]:
        _instability(page)


def _instability(page: Page) -> None:
    """Draw the effect of large logits in 16 bits, from the run that ships."""
    page.title("An instability: large logits in 16 bits")
    page.markdown(
        "If all scores of the router grow by one number, its softmax does not see it, and the auxiliary loss "
        "cannot mend it. But in 16 bits (bfloat16) large scores are rounded by much, and words change their "
        "expert. Only the **z-loss** of ST-MoE (2022), the mean of log² Σ exp(score), pulls such an offset back; "
        "it balances nothing. Of the run that ships; the last two columns: what is left of the offset after 3,000 "
        "steps down the slope of the loss."
    )
    table = pd.read_csv(LARGE_LOGITS).set_index("offset")
    shares = {name: table[name].map("{:.1%}".format) for name in ("changed", "rounded")}
    left = {name: table[name].map("{:.1f}".format) for name in ("without", "with_z_loss")}
    names = {"changed": "words that change", "rounded": "largest change of a probability"}
    page.table(table.assign(**shares, **left).rename(columns=names | {"with_z_loss": "with z-loss"}))


def _why_so_many_are_dropped(result: Switch) -> str:
    """Explain why less is dropped late than early, and in test more than late, if that is so."""
    early, late, test = result.drop_rate(EARLY), result.drop_rate(LATE), result.held_out_dropped
    said = ["Early, the router sends most words to a few experts."] if late < early else []
    if said and result.settings["aux_weight"]:
        said.append("The auxiliary loss evens that out as it trains.")
    if test > late:
        said.append("More is dropped in test than late in training: the load was evened out on other words than these.")
    return " ".join(said)


EXHIBIT = Exhibit(
    choices=(
        PageControl("experts", "Experts", (2, 4, 8, 16), 8, width=160),
        PageControl(
            "capacity_factor", "Capacity factor", (0.5, 1.0, 1.25, 2.0), 1.25, kind="list", width=150, key="factor"
        ),
        PageControl(
            "aux_weight", "Aux loss weight α", (0.0, 1e-3, 1e-2, 1e-1), 1e-2, kind="list", width=150, key="weight"
        ),
    ),
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=(
        (EXPERT_QUEUES, lambda: (shipped(Switch),)),
        (DROP_RATES, lambda: (shipped(Switch), shipped_sweep())),
        (DROPPED_BY_PLACE, lambda: (shipped(Switch),)),
    ),
    trace_charts=(LOAD_BY_LABEL, NAMED["top_tokens_table"]),
)
