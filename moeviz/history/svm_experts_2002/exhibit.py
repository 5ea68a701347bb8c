"""The exhibit of the SVM experts of 2002: which are full, what that costs, and what more experts gain."""

from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.history.shared.exhibit import LOAD_BY_LABEL, Exhibit, Page, PageControl, words_beside
from moeviz.history.shared.results import shipped
from moeviz.history.svm_experts_2002.model import KERNELS, SVMMixture, trace_of, train

TEXT = words_beside(__file__)
HAS_ROOM, TAKEN_IN, TURNED_AWAY = "first choice, not full", "sent on by a full expert", "first choice, but full"
SWEEP = Path(__file__).with_name("sweep.csv")


def expert_room(result: SVMMixture, at: int = -1) -> pd.DataFrame:
    """Examples that the gater preferred for each expert, and those that it did get, at the end of one iteration.

    All training examples are counted. An expert learns next from those whose first choice it is, as long as it is not
    full, and from those sent on by experts that are full; together they are at most its capacity, N/M + c. Those turned
    away go to the expert with the next highest weight that is not full.

    One row per expert and part, three parts each. Columns: iteration int32 (from 1) · expert int16 · part str ·
    examples int64 · capacity int64 (examples) · uniform float64 (N / M) · turned_away float64 (share of those whose
    first choice the expert is; 0 if there are no others).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002), for the rule.
    """
    liked, given = result.first_choice[at], result.assigned[at]
    experts = int(result.settings["experts"])
    mine = np.bincount(liked[liked == given], minlength=experts)
    turned_away = np.bincount(liked[liked != given], minlength=experts)
    counts = {HAS_ROOM: mine, TAKEN_IN: np.bincount(given, minlength=experts) - mine, TURNED_AWAY: turned_away}
    frame = pd.DataFrame(counts).rename_axis("expert").reset_index()
    frame["turned_away"] = turned_away / np.maximum(mine + turned_away, 1)
    facts = {
        "iteration": np.int32(range(1, len(result.assigned) + 1)[at]),
        "capacity": result.capacity,
        "uniform": len(given) / experts,
    }
    long = frame.assign(**facts).melt(["expert", "turned_away", *facts], list(counts), "part", "examples")
    kinds = {"iteration": np.int32, "expert": np.int16, "part": "str"}
    return long[["iteration", "expert", "part", "examples", "capacity", "uniform", "turned_away"]].astype(kinds)


def swept() -> pd.DataFrame:
    """Return trainings with each number of experts, extra capacity c = 1, with five seeds each.

    One row per training. Columns: kernel str · experts int64 · shuffled bool · seed int64 · single, uniform, gated
    float64 (test errors).
    """
    return pd.read_csv(SWEEP)


def error_by_experts() -> pd.DataFrame:
    """Test error by number of experts with extra capacity c = 1: mean of five seeds, from the table that ships.

    The control has linear experts that learn from random classes, so they know nothing: any success is the gater's.
    With four hidden units and a line from each expert, it separates odd from even by itself, and does so better with
    more experts.

    One row per kernel, system and number of experts. Columns: kernel str · system str · experts int64 · error float64
    (share of the 1,000 test digits) · lowest, highest float64 (of the seeds).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002); the control is our own.
    """
    table = swept()
    known, control = table[~table["shuffled"]], table[table["shuffled"]].rename(columns={"gated": "control"})
    names = {"single": "one machine", "uniform": "uniform mixture", "gated": "gated mixture"}
    parts = [known.melt(["kernel", "experts"], list(names), "system", "error")]
    parts += [control.melt(["kernel", "experts"], ["control"], "system", "error")]
    long = pd.concat(parts).replace({"system": names | {"control": "gated, experts that know nothing"}})
    groups = long.groupby(["kernel", "system", "experts"], sort=False)["error"]
    return groups.agg(error="mean", lowest="min", highest="max").reset_index()


PARTS = {HAS_ROOM: theme.MAIN, TAKEN_IN: theme.OTHER, TURNED_AWAY: theme.CHANCE}
SYSTEMS = {
    "gated mixture": theme.MAIN,
    "uniform mixture": theme.CHANCE,
    "one machine": theme.NOTE,
    "gated, experts that know nothing": theme.EXPERT_COLOURS[2],
}


def room_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw bars of what each expert learns from and would have, and its capacity. Columns: those of `expert_room`."""
    bars = theme.bars(
        frame.assign(order=frame["part"].map(list(PARTS).index)),
        x=theme.expert_axis("dashed: capacity"),
        y=alt.Y("examples:Q", title="training examples"),
        color=_colour("part", PARTS),
        order="order:Q",
        tooltip=theme.tooltip(
            expert="d",
            part="",
            examples=",",
            turned_away=("share of its first choices turned away", ".0%"),
            capacity=("capacity, examples", ","),
            uniform=("uniform share, examples", ",.0f"),
        ),
    )
    return theme.framed(bars + theme.reference(frame[["capacity"]].head(1), "capacity", theme.NOTE), theme.MEDIUM)


def error_by_experts_lines(frame: pd.DataFrame) -> alt.Chart:
    """Errors by number of experts, one line per system and kernel. Columns: those of `error_by_experts`."""
    dash = theme.named(alt.StrokeDash, "kernel", ["linear", "rbf"], theme.SOLID_AND_DASHED)
    counts = sorted(frame["experts"].unique().tolist())
    scale = alt.Scale(type="log", base=2, nice=False, domain=[counts[0], counts[-1]])
    chart = theme.lines(
        frame,
        {"strokeWidth": 2, "point": True},
        x=alt.X("experts:Q", title="experts", scale=scale, axis=alt.Axis(values=counts, format="d")),
        y=alt.Y("error:Q", title="test error", axis=theme.share_axis()),
        color=_colour("system", SYSTEMS),
        strokeDash=dash.legend(None),  # the reading says it: a phone is too narrow for two legends
        tooltip=theme.tooltip(
            system="",
            kernel="",
            experts="d",
            error=("error, mean of five seeds", ".1%"),
            lowest=("lowest", ".1%"),
            highest=("highest", ".1%"),
        ),
    )
    return theme.framed(chart, theme.MEDIUM + 60)


def _colour(field: str, colours: dict[str, str]) -> alt.Color:
    return theme.colour(field, colours, colours.values(), columns=1, labelLimit=260)


EXPERT_ROOM = TEXT.chart(expert_room, room_bars)
ERROR_BY_EXPERTS = TEXT.chart(error_by_experts, error_by_experts_lines)


def picture(page: Page, result: SVMMixture) -> None:
    """Draw how full the experts are after an iteration of the loop."""
    last = len(result.overflow)
    at = page.choose(PageControl("iteration", "Iteration", range(1, last + 1), last)) if last > 1 else 1
    page.chart(EXPERT_ROOM, result, at - 1)


def details(page: Page, result: SVMMixture) -> None:
    """Draw the figures, errors by number of experts, and who gets which digit."""
    figures = {
        "Gated mixture": f"{result.test_error[-1]:.1%}",
        "Uniform mixture": f"{result.uniform_error:.1%}",
        "Single machine": f"{result.single_error:.1%}",
        "Capacity": f"{result.capacity:,}",
        "Overflow": f"{result.overflow[-1]:.0%}",
    }
    page.figures(TEXT.figures(figures))
    page.chart(ERROR_BY_EXPERTS)
    trace = trace_of(result, page.choose(PageControl("view", "Expert", ("first choice", "assigned"), kind="buttons")))
    last = trace.select(layers=trace.model.layers[-1:])
    page.chart(LOAD_BY_LABEL, last, model=last.model)


EXHIBIT = Exhibit(
    choices=(
        PageControl("experts", "Experts", (2, 4, 8, 16, 32), 8, width=140),
        PageControl("room", "Extra capacity c", (1, 50, 125, 250, 500, 1000, 4000), width=140),
        PageControl("kernel", "Kernel", KERNELS, kind="list", width=110),
        PageControl("iterations", "Iterations", (1, 12), 6, kind="number", width=110),
        PageControl(
            "shuffled",
            "Shuffled",
            kind="toggle",
            help="A control: odd and even are assigned to the images at random, so the experts learn nothing true and "
            "all the work is the gater's.",
        ),
    ),
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=(
        (EXPERT_ROOM, lambda: (shipped(SVMMixture),)),
        (ERROR_BY_EXPERTS, lambda: ()),
    ),
)
