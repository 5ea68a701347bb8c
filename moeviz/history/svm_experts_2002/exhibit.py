"""The page of the SVM experts of 2002: its charts, its choices, and how they stand together."""

from typing import Any

import altair as alt
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.shared.datasets import stand_in
from moeviz.history.shared.exhibit import LOAD_BY_LABEL, Exhibit, Page, PageControl, formant_plane
from moeviz.history.shared.results import shipped
from moeviz.history.svm_experts_2002.em import STARTS, SoftMixture, soft_trace_of, train_soft
from moeviz.history.svm_experts_2002.frames import (
    HAS_ROOM,
    TAKEN_IN,
    TURNED_AWAY,
    error_by_experts,
    error_by_iteration,
    expert_room,
    overflow_by_iteration,
    soft_errors,
    svm_lines,
    sweep,
    what_room_changes,
)
from moeviz.history.svm_experts_2002.model import KERNELS, SVMMixture, train
from moeviz.history.svm_experts_2002.trace import trace_of
from moeviz.routing_trace import RoutingTrace

PARTS = {HAS_ROOM: theme.MAIN, TAKEN_IN: theme.OTHER, TURNED_AWAY: theme.CHANCE}
SYSTEMS = {
    "gated mixture": theme.MAIN,
    "uniform mixture": theme.CHANCE,
    "one machine": theme.NOTE,
    "gated, experts that know nothing": theme.EXPERT_COLOURS[2],
}
LINE = {"strokeWidth": 2, "point": True}
LINES = (theme.MAIN, theme.EXPERT_COLOURS[1], theme.CHANCE, theme.NOTE)
WHAT = (theme.CHANCE, theme.MAIN, theme.EXPERT_COLOURS[2])


def room_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Bars of what each expert learns from and would have, and its capacity. Columns: those of `expert_room`."""
    bars = theme.bars(
        frame.assign(order=frame["part"].map(list(PARTS).index)),
        x=theme.expert_axis("dashed: capacity"),
        y=alt.Y("examples:Q", title="training examples"),
        color=_colour("part", PARTS, columns=1),
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


def overflow_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of examples that do not get their first choice, with chance. Columns: those of `overflow_by_iteration`."""
    bars = theme.bars(
        frame,
        x=alt.X("iteration:O", title="iteration (dashed: at random)", axis=theme.ids_axis()),
        y=alt.Y("overflow:Q", title="share of examples", axis=theme.share_axis()),
        tooltip=theme.tooltip(
            iteration="d",
            overflow=("not given to first choice", ".1%"),
            by_lot=("at random", ".1%"),
            busiest=("most popular expert, × uniform share", ".2f"),
        ),
    )
    return theme.framed(bars + theme.reference(frame[["by_lot"]].head(1), "by_lot"), theme.SHORT)


def error_lines(frame: pd.DataFrame) -> alt.Chart:
    """Errors by iteration, one line per system. Columns: those of `error_by_iteration`."""
    systems = dict(zip(frame["system"].unique(), [*LINES[: frame["system"].nunique() - 1], theme.NOTE], strict=True))
    axis = alt.Axis(tickMinStep=1, format="d")
    chart = theme.lines(
        frame,
        LINE,
        x=alt.X("iteration:Q", title="iteration", scale=alt.Scale(zero=False), axis=axis),
        y=alt.Y("error:Q", title="error", axis=theme.share_axis()),
        color=_colour("system", systems),
        tooltip=theme.tooltip(system="", iteration="d", error=".1%"),
    )
    return theme.framed(chart, theme.MEDIUM)


def soft_error_lines(frame: pd.DataFrame) -> alt.Chart:
    """Lines of the soft mixture's errors by iteration. Columns: those of `soft_errors`."""
    return error_lines(frame)


def svm_plane(frame: pd.DataFrame) -> alt.LayerChart:
    """The plane of 1991, shared out among support vector machines. Columns: those of `svm_lines`."""
    return formant_plane(frame)


def error_by_experts_lines(frame: pd.DataFrame) -> alt.Chart:
    """Errors by number of experts, one line per system and kernel. Columns: those of `error_by_experts`."""
    dash = theme.named(alt.StrokeDash, "kernel", ["linear", "rbf"], theme.SOLID_AND_DASHED)
    chart = theme.lines(
        frame,
        LINE,
        x=_doubling("experts", "experts", sorted(frame["experts"].unique().tolist())),
        y=alt.Y("error:Q", title="test error", axis=theme.share_axis()),
        color=_colour("system", SYSTEMS, columns=1),
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


def room_lines(frame: pd.DataFrame) -> alt.Chart:
    """Overflow, the largest expert and the error by capacity factor. Columns: those of `what_room_changes`."""
    colours = dict(zip(frame["what"].unique(), WHAT, strict=True))
    chart = theme.lines(
        frame,
        LINE,
        x=_doubling("capacity_factor", "capacity factor (capacity / uniform share)", [1, 2, 4, 8]),
        y=alt.Y("share:Q", title="share", axis=theme.share_axis()),
        color=_colour("what", colours, columns=1),
        tooltip=theme.tooltip(
            what="", room=("extra capacity c, examples", ","), capacity_factor=("capacity factor", ".2f"), share=".1%"
        ),
    )
    return theme.framed(chart, theme.MEDIUM)


def _colour(field: str, colours: dict[str, str], columns: int = 2) -> alt.Color:
    return theme.colour(field, colours, colours.values(), columns=columns, labelLimit=260)


def _doubling(field: str, title: str, values: list[int]) -> alt.X:
    scale = alt.Scale(type="log", base=2, nice=False, domain=[values[0], values[-1]])
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(values=values, format="d"))


EXPERT_ROOM = Chart(
    "Which experts are too full for the examples that prefer them?",
    "Blue and grey are what an expert learns from next: at most its capacity N/M + c, the dashed line. Orange is what "
    "the gater would also have given it; another expert got this instead, and it is grey in that expert's bar.",
    measure=expert_room,
    draw=room_bars,
)
OVERFLOW = Chart(
    "How many examples do not get their first choice?",
    "Each bar is the share of the training examples that found their first choice full; the dashed line is the same "
    "for a gater that prefers experts at random.",
    measure=overflow_by_iteration,
    draw=overflow_bars,
)
ERRORS = Chart(
    "Does the gater make up for experts that learn from few examples?",
    "Each line is a share of digits classified wrongly; lower is better. With uniform weights the same experts count "
    "equally, and the grey line is one machine that learns from all examples.",
    measure=error_by_iteration,
    draw=error_lines,
)
SOFT_ERRORS = Chart(
    "Can several lines do what a single line cannot?",
    "Each line is a share of vowels classified wrongly; lower is better. The grey line is one linear machine, and 50 "
    "% is no better than chance.",
    measure=soft_errors,
    draw=soft_error_lines,
)
ERROR_BY_EXPERTS = Chart(
    "Do more experts make fewer errors?",
    "Each line is the share of test digits that as many experts classify wrongly, the mean of five seeds; it is solid "
    "for linear experts and dashed for rbf. The distance from green down to blue is what the linear experts' learning "
    "contributes; the rest is the gater's.",
    measure=error_by_experts,
    draw=error_by_experts_lines,
)
WHAT_ROOM_CHANGES = Chart(
    "What does more capacity for each expert change?",
    "From left to right, each of 8 linear experts can learn from more examples, up to no limit: fewer examples are "
    "turned away, the largest expert takes a larger share of all examples (a uniform share is 12.5%), and the error "
    "hardly changes.",
    measure=what_room_changes,
    draw=room_lines,
)
SVM_LINES = Chart(
    "How do the machines divide the plane?",
    "Each mark is one spoken vowel, in the colour of the expert that the gate trusts most with it; each line is where "
    "that expert changes its answer.",
    measure=svm_lines,
    draw=svm_plane,
)


LOOP, SOFT, HARD = "loop of 2002, digits", "soft EM, vowels", "hard EM, vowels"


def by_loop(chosen: dict[str, Any]) -> bool:
    """Offer a choice where the loop of 2002 is trained."""
    return chosen["way"] == LOOP


def by_em(chosen: dict[str, Any]) -> bool:
    """Offer a choice where expectation maximisation trains."""
    return chosen["way"] != LOOP


def trained(way: str, **settings: Any) -> SVMMixture | SoftMixture:
    """Train by one of the three methods."""
    return train(**settings) if way == LOOP else train_soft(hard=way == HARD, **settings)


def trace_of_either(result: SVMMixture | SoftMixture) -> RoutingTrace:
    """The routing of the loop's result at each iteration, or of the soft mixture's first choices."""
    return soft_trace_of(result, slots=1) if isinstance(result, SoftMixture) else trace_of(result)


def picture(page: Page, result: SVMMixture | SoftMixture) -> None:
    """Draw how full the experts are after an iteration of the loop, or how they divide the vowels."""
    if isinstance(result, SoftMixture):
        page.text(f"The vowels are a {stand_in().source}.")
        iterations = PageControl("iteration", "Iteration", result.recorded, result.recorded[-1], key="soft iteration")
        page.chart(SVM_LINES, result, stand_in(), page.choose(iterations) - 1)
    else:
        last = len(result.overflow)
        at = page.choose(PageControl("iteration", "Iteration", range(1, last + 1), last)) if last > 1 else 1
        page.chart(EXPERT_ROOM, result, at - 1)


def details(page: Page, result: SVMMixture | SoftMixture) -> None:
    """Draw the figures; of the loop, errors by experts and who gets which digit; of the soft mixture, its errors."""
    if isinstance(result, SoftMixture):
        page.figures(
            {
                "Mixture": (
                    f"{result.test_error[-1]:.1%}",
                    "Share of the samples of the last 25 speakers classified wrongly.",
                ),
                "Single machine": (f"{result.single_error:.1%}", "The same for one linear machine."),
                "Log likelihood": (f"{result.log_likelihood[-1]:.3f}", "Nats per training sample; EM pushes it up."),
            }
        )
        page.chart(SOFT_ERRORS, result)
        return
    page.figures(
        {
            "Gated mixture": (
                f"{result.test_error[-1]:.1%}",
                "Share of 1,000 test digits classified wrongly as odd or even.",
            ),
            "Uniform mixture": (
                f"{result.uniform_error:.1%}",
                "The same, with experts trained on random parts that all count equally.",
            ),
            "Single machine": (
                f"{result.single_error:.1%}",
                "The same for one machine that learns from all 4,000 digits.",
            ),
            "Capacity": (f"{result.capacity:,}", "The number of examples that an expert can learn from: N/M + c."),
            "Overflow": (f"{result.overflow[-1]:.0%}", "Share of the training digits whose first choice was full."),
        }
    )
    page.chart(ERROR_BY_EXPERTS)
    trace = trace_of(result, page.choose(PageControl("view", "Expert", ("first choice", "assigned"), kind="buttons")))
    last = trace.select(layers=trace.model.layers[-1:])
    page.chart(LOAD_BY_LABEL, last, model=last.model)


EXHIBIT = Exhibit(
    choices=(
        PageControl("way", "Method", (LOOP, SOFT, HARD), kind="list", width=200),
        PageControl("experts", "Experts", (2, 4, 8, 16, 32), 8, width=140, offered=by_loop),
        PageControl("room", "Extra capacity c", (1, 50, 125, 250, 500, 1000, 4000), width=140, offered=by_loop),
        PageControl("kernel", "Kernel", KERNELS, kind="list", width=110, offered=by_loop),
        PageControl("iterations", "Iterations", (1, 12), 6, kind="number", width=110, offered=by_loop),
        PageControl(
            "shuffled",
            "Shuffled",
            kind="toggle",
            help="A control: odd and even are assigned to the images at random, so the experts learn nothing true and "
            "all the work is the gater's.",
            offered=by_loop,
        ),
        PageControl("experts", "Experts", (2, 4), width=120, key="lines", offered=by_em),
        PageControl("start", "Start", STARTS, kind="list", width=140, offered=by_em),
    ),
    train=trained,
    trace_of=trace_of_either,
    picture=picture,
    details=details,
    charts=(
        (EXPERT_ROOM, lambda: (shipped(SVMMixture),)),
        (OVERFLOW, lambda: (shipped(SVMMixture),)),
        (ERRORS, lambda: (shipped(SVMMixture),)),
        (ERROR_BY_EXPERTS, lambda: ()),
        (WHAT_ROOM_CHANGES, lambda: ()),
        (SVM_LINES, lambda: (train_soft(), stand_in())),
        (SOFT_ERRORS, lambda: (train_soft(),)),
    ),
    sweep=sweep,
)
