"""The results of the loop of 2002, in numbers: which experts are full, what that costs, and what more experts gain."""

from itertools import product
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.chart import Chart
from moeviz.history.shared.exhibit import LOAD_BY_LABEL, Choice, Exhibit, Page
from moeviz.history.shared.formant_plane import formant_plane, plane_of
from moeviz.history.shared.results import Watch, shipped, unwatched
from moeviz.history.shared.vowels import VOWELS, Vowels, encode, stand_in
from moeviz.history.svm_experts_2002.em import STARTS, SoftMixture, soft_trace_of, train_soft
from moeviz.history.svm_experts_2002.model import KERNELS, SVMMixture, assign, trace_of, train
from moeviz.routing_trace import RoutingTrace

HAS_ROOM, TAKEN_IN, TURNED_AWAY = "first choice, not full", "sent on by a full expert", "first choice, but full"
SWEEP = Path(__file__).with_name("sweep.csv")
SEEDS = range(5)
SWEPT_EXPERTS = {"linear": (2, 4, 8, 16, 32), "rbf": (2, 4, 8, 16)}
SWEPT_ROOM = (1, 50, 125, 250, 500, 1000, 3500)  # of 8 experts: the last is as good as no limit
AT = 8  # experts, where room is swept


def expert_room(result: SVMMixture, at: int = -1) -> pd.DataFrame:
    """Examples that the gater preferred for each expert, and those that it did get, at the end of one iteration.

    All training examples are counted. An expert learns next from those whose first choice it is, as long as it is not
    full, and from those sent on by experts that are full; together they are at most its capacity, N/M + c. Those turned
    away go to the expert with the next highest weight that is not full.

    One row per expert and part, three parts each. Columns: iteration int32 (from 1) · expert int16 · part str ·
    examples int64 · capacity int64 (examples) · uniform float64 (N / M) · turned_away float64 (share of those whose
    first choice the expert is; 0 if there are none).

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


def overflow_by_iteration(result: SVMMixture) -> pd.DataFrame:
    """The share of the training examples that are not given to their first choice, iteration by iteration.

    At random means the same rule with a gater whose weights are random: then no expert is preferred to another.

    One row per iteration. Columns: iteration int32 (from 1) · overflow float64 (share of examples) · by_lot float64
    (the same) · busiest float64 (examples whose first choice is the most popular expert, as a multiple of the uniform
    share N/M).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002), for the rule; the tokens that
    overflow in Switch Transformers (arXiv 2101.03961), section 2.2, are the same count.
    """
    examples, experts = result.assigned.shape[1], int(result.settings["experts"])
    rng = np.random.default_rng(0)
    lot = rng.normal(size=(examples, experts))
    frame = pd.DataFrame(
        {
            "iteration": np.arange(1, len(result.assigned) + 1, dtype=np.int32),
            "overflow": result.overflow,
            "by_lot": (assign(lot, result.capacity, rng) != lot.argmax(axis=1)).mean(),
        }
    )
    most = [np.bincount(liked, minlength=experts).max() for liked in result.first_choice]
    return frame.assign(busiest=np.array(most) * experts / examples)


def error_by_iteration(result: SVMMixture) -> pd.DataFrame:
    """The share of digits classified wrongly as odd or even, iteration by iteration.

    With uniform weights the experts of the same iteration count equally; in iteration 1, where they learn from random
    parts, that is the paper's uniform mixture.

    One row per iteration and system. Columns: iteration int32 (from 1) · system str · error float64 (share of digits).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002).
    """
    systems = {
        "gater, test": result.test_error,
        "gater, training": result.train_error,
        "uniform weights, test": result.even_error,
        "one machine, test": np.full(len(result.test_error), result.single_error),
    }
    return long_errors(systems)


def long_errors(systems: dict[str, np.ndarray]) -> pd.DataFrame:
    """Errors by iteration of several systems, below each other. Columns: those of `error_by_iteration`."""
    frame = pd.DataFrame(systems).rename_axis("iteration").reset_index()
    frame["iteration"] = (frame["iteration"] + 1).astype(np.int32)
    return frame.melt("iteration", var_name="system", value_name="error").astype({"system": "str"})


def sweep(watch: Watch = unwatched) -> pd.DataFrame:
    """Train with each number of experts, and 8 experts with each extra capacity, five seeds: minutes. Written as SWEEP.

    One row per training. Columns: kernel str · experts int64 · room int64 · shuffled bool · seed int64 ·
    capacity_factor float64 ((N/M + c) / (N/M)) · single, uniform, gated float64 (test errors) · overflow float64 (share
    of examples) · largest float64 (share of the examples that the largest expert learns from).
    """
    grid = [(kernel, m, 1, s) for kernel, many in SWEPT_EXPERTS.items() for m, s in product(many, (False, True))]
    grid = [row for row in grid if row[0] == "linear" or not row[3]]
    grid += [("linear", AT, room, False) for room in SWEPT_ROOM[1:]]
    rows = []
    for number, ((kernel, experts, room, shuffled), seed) in enumerate(product(grid, SEEDS)):
        watch(number / len(grid) / len(SEEDS), f"{experts} {kernel} experts, room {room}")
        rows.append(_row(train(experts, room, kernel, shuffled=shuffled, seed=seed)))
    return pd.DataFrame(rows)


def swept() -> pd.DataFrame:
    """The table of `sweep` that ships."""
    return pd.read_csv(SWEEP)


def error_by_experts() -> pd.DataFrame:
    """Test error by number of experts with extra capacity c = 1: mean of five seeds, from the table that ships.

    The control are linear experts that learn from classes assigned to the images at random, so they know nothing: any
    success is the gater's. With four hidden units and a line from each expert, it tells odd from even by itself, and
    does so better the more experts there are.

    One row per kernel, system and number of experts. Columns: kernel str · system str · experts int64 · error float64
    (share of the 1,000 test digits) · lowest, highest float64 (of the seeds).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002); the control is our own.
    """
    table = swept()
    table = table[table["room"] == 1]
    known, control = table[~table["shuffled"]], table[table["shuffled"]].rename(columns={"gated": "control"})
    names = {"single": "one machine", "uniform": "uniform mixture", "gated": "gated mixture"}
    parts = [known.melt(["kernel", "experts"], list(names), "system", "error")]
    parts += [control.melt(["kernel", "experts"], ["control"], "system", "error")]
    long = pd.concat(parts).replace({"system": names | {"control": "gated, experts that know nothing"}})
    groups = long.groupby(["kernel", "system", "experts"], sort=False)["error"]
    return groups.agg(error="mean", lowest="min", highest="max").reset_index()


def what_room_changes() -> pd.DataFrame:
    """Errors of 8 linear experts with more and more capacity: mean of five seeds, from the table that ships.

    The capacity factor is the capacity N/M + c divided by the uniform share N/M: 1 leaves no choice, 8 is no limit at
    all.

    One row per extra capacity and measure. Columns: room int64 (examples, c) · capacity_factor float64 · what str ·
    share float64 (of the training examples; of the test digits for the error).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002), for c; Switch Transformers
    (arXiv 2101.03961), section 2.2, for the capacity factor.
    """
    table = swept()
    table = table[(table["experts"] == AT) & (table["kernel"] == "linear") & ~table["shuffled"]]
    names = {
        "overflow": "not given to their first choice",
        "largest": "learnt by the largest expert",
        "gated": "test error",
    }
    means = table.groupby(["room", "capacity_factor"])[list(names)].mean().reset_index()
    return means.rename(columns=names).melt(["room", "capacity_factor"], var_name="what", value_name="share")


def _row(result: SVMMixture) -> dict[str, object]:
    examples, experts = result.assigned.shape[1], int(result.settings["experts"])
    facts = {name: result.settings[name] for name in ("kernel", "experts", "room", "shuffled", "seed")}
    return facts | {
        "capacity_factor": result.capacity * experts / examples,
        "single": result.single_error,
        "uniform": result.uniform_error,
        "gated": result.test_error[-1],
        "overflow": result.overflow[-1],
        "largest": np.bincount(result.assigned[-1]).max() / examples,
    }


def svm_lines(result: SoftMixture, data: Vowels, at: int = -1) -> pd.DataFrame:
    """Samples, and the line of each support vector machine, at one iteration.

    An expert's line is where its margin is 0; it is drawn for the experts that win a sample. A sample belongs to the
    expert that the gate gives the highest proportion.

    One row per sample, and two per line, its ends. Columns: what str (sample or line) · f1, f2 float64 (kHz) · expert
    int16 · vowel str ("" for lines) · right bool (whether the mixture's answer is on the right side of 0.5; True for
    lines).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), for the mixture; the picture is that of
    Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), figure 2.
    """
    inputs, desired = encode(data)
    winner = result.logits(inputs, at).argmax(axis=1)
    samples = pd.DataFrame(
        {
            "what": "sample",
            "f1": inputs[:, 0],
            "f2": inputs[:, 1],
            "expert": winner,
            "vowel": [VOWELS[vowel] for vowel in data.vowel],
            "right": (result.answer(inputs, at) > 0.5) == (desired > 0.5),
        }
    )
    low, high = plane_of(inputs)
    lines = [
        {"what": "line", "f1": f1, "f2": f2, "expert": expert, "vowel": "", "right": True}
        for expert in np.unique(winner)
        for f1, f2 in ends(result.expert_lines[at][:, expert], low, high)
    ]
    return pd.concat([samples, pd.DataFrame(lines)], ignore_index=True).astype({"expert": np.int16})


def ends(line: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """Points where the line a·x + b·y + c = 0 enters a box and leaves it; none where it does not meet it."""
    normal, shift = line[:2], line[2]
    if not normal.any():
        return []
    along, nearest = np.array([normal[1], -normal[0]]), -shift * normal / (normal @ normal)
    with np.errstate(divide="ignore", invalid="ignore"):
        first, last = np.sort([(low - nearest) / along, (high - nearest) / along], axis=0)
    begin, end = np.nanmax(first), np.nanmin(last)
    return [tuple((nearest + t * along).tolist()) for t in (begin, end)] if begin < end else []


def soft_errors(result: SoftMixture) -> pd.DataFrame:
    """How many vowels are on the wrong side of 0.5, iteration by iteration.

    One row per iteration and system. Columns: iteration int32 (from 1) · system str · error float64 (share of samples).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), for the method.
    """
    single = np.full(len(result.test_error), result.single_error)
    systems = {"mixture, test": result.test_error, "mixture, training": result.train_error, "one machine, test": single}
    return long_errors(systems)


PARTS = {HAS_ROOM: theme.MAIN, TAKEN_IN: theme.OTHER, TURNED_AWAY: theme.CHANCE}
SYSTEMS = {
    "gated mixture": theme.MAIN,
    "uniform mixture": theme.CHANCE,
    "one machine": theme.NOTE,
    "gated, experts that know nothing": theme.EXPERT_COLOURS[2],
}
LINES = (theme.MAIN, theme.EXPERT_COLOURS[1], theme.CHANCE, theme.NOTE)
WHAT = (theme.CHANCE, theme.MAIN, theme.EXPERT_COLOURS[2])


def room_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Bars of what each expert learns from and would have, and its capacity. Columns: those of `expert_room`."""
    bars = (
        alt.Chart(frame.assign(order=frame["part"].map(list(PARTS).index)))
        .mark_bar()
        .encode(
            x=alt.X("expert:O", title="expert (dashed: capacity)", axis=theme.ids_axis()),
            y=alt.Y("examples:Q", title="training examples"),
            color=_colour("part", PARTS, columns=1),
            order="order:Q",
            tooltip=[
                alt.Tooltip("expert:Q", format="d"),
                alt.Tooltip("part:N"),
                alt.Tooltip("examples:Q", format=","),
                alt.Tooltip("turned_away:Q", title="share of its first choices turned away", format=".0%"),
                alt.Tooltip("capacity:Q", title="capacity, examples", format=","),
                alt.Tooltip("uniform:Q", title="uniform share, examples", format=",.0f"),
            ],
        )
    )
    return theme.framed(bars + theme.reference(frame[["capacity"]].head(1), "capacity", theme.NOTE), theme.MEDIUM)


def overflow_bars(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of examples that do not get their first choice, with chance. Columns: those of `overflow_by_iteration`."""
    bars = (
        alt.Chart(frame)
        .mark_bar(color=theme.MAIN)
        .encode(
            x=alt.X("iteration:O", title="iteration (dashed: at random)", axis=theme.ids_axis()),
            y=alt.Y("overflow:Q", title="share of examples", axis=theme.share_axis()),
            tooltip=[
                alt.Tooltip("iteration:Q", format="d"),
                alt.Tooltip("overflow:Q", title="not given to first choice", format=".1%"),
                alt.Tooltip("by_lot:Q", title="at random", format=".1%"),
                alt.Tooltip("busiest:Q", title="most popular expert, × uniform share", format=".2f"),
            ],
        )
    )
    return theme.framed(bars + theme.reference(frame[["by_lot"]].head(1), "by_lot"), theme.SHORT)


def error_lines(frame: pd.DataFrame) -> alt.Chart:
    """Errors by iteration, one line per system. Columns: those of `error_by_iteration`."""
    systems = dict(zip(frame["system"].unique(), [*LINES[: frame["system"].nunique() - 1], theme.NOTE], strict=True))
    chart = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=True)
        .encode(
            x=alt.X(
                "iteration:Q", title="iteration", scale=alt.Scale(zero=False), axis=alt.Axis(tickMinStep=1, format="d")
            ),
            y=alt.Y("error:Q", title="error", axis=theme.share_axis()),
            color=_colour("system", systems),
            tooltip=[
                alt.Tooltip("system:N"),
                alt.Tooltip("iteration:Q", format="d"),
                alt.Tooltip("error:Q", format=".1%"),
            ],
        )
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
    dash = alt.StrokeDash(
        "kernel:N",
        scale=alt.Scale(domain=["linear", "rbf"], range=[[1, 0], list(theme.DASH)]),
        legend=None,  # the reading says it: a phone is too narrow for two legends
    )
    chart = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=True)
        .encode(
            x=_doubling("experts", "experts", sorted(frame["experts"].unique().tolist())),
            y=alt.Y("error:Q", title="test error", axis=theme.share_axis()),
            color=_colour("system", SYSTEMS, columns=1),
            strokeDash=dash,
            tooltip=[
                alt.Tooltip("system:N"),
                alt.Tooltip("kernel:N"),
                alt.Tooltip("experts:Q", format="d"),
                alt.Tooltip("error:Q", title="error, mean of five seeds", format=".1%"),
                alt.Tooltip("lowest:Q", title="lowest", format=".1%"),
                alt.Tooltip("highest:Q", title="highest", format=".1%"),
            ],
        )
    )
    return theme.framed(chart, theme.MEDIUM + 60)


def room_lines(frame: pd.DataFrame) -> alt.Chart:
    """Overflow, the largest expert and the error by capacity factor. Columns: those of `what_room_changes`."""
    colours = dict(zip(frame["what"].unique(), WHAT, strict=True))
    chart = (
        alt.Chart(frame)
        .mark_line(strokeWidth=2, point=True)
        .encode(
            x=_doubling("capacity_factor", "capacity factor (capacity / uniform share)", [1, 2, 4, 8]),
            y=alt.Y("share:Q", title="share", axis=theme.share_axis()),
            color=_colour("what", colours, columns=1),
            tooltip=[
                alt.Tooltip("what:N"),
                alt.Tooltip("room:Q", title="extra capacity c, examples", format=","),
                alt.Tooltip("capacity_factor:Q", title="capacity factor", format=".2f"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    return theme.framed(chart, theme.MEDIUM)


def _colour(field: str, colours: dict[str, str], columns: int = 2) -> alt.Color:
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(
        f"{field}:N", scale=scale, legend=alt.Legend(title=None, orient="top", columns=columns, labelLimit=260)
    )


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
    "Each line is the share of test digits that so many experts classify wrongly, the mean of five seeds; it is solid "
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
        iterations = Choice("iteration", "Iteration", result.recorded, result.recorded[-1], key="soft iteration")
        page.chart(SVM_LINES, result, stand_in(), page.choose(iterations) - 1)
    else:
        last = len(result.overflow)
        at = page.choose(Choice("iteration", "Iteration", range(1, last + 1), last)) if last > 1 else 1
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
                "Log likelihood": (
                    f"{result.log_likelihood[-1]:.3f}",
                    "Nats per training sample; EM pushes it up.",
                ),
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
    trace = trace_of(result, page.choose(Choice("view", "Expert", ("first choice", "assigned"), kind="buttons")))
    last = trace.select(layers=trace.model.layers[-1:])
    page.chart(LOAD_BY_LABEL, last, model=last.model)


EXHIBIT = Exhibit(
    choices=(
        Choice("way", "Method", (LOOP, SOFT, HARD), kind="list", width=200),
        Choice("experts", "Experts", (2, 4, 8, 16, 32), 8, width=140, offered=by_loop),
        Choice("room", "Extra capacity c", (1, 50, 125, 250, 500, 1000, 4000), width=140, offered=by_loop),
        Choice("kernel", "Kernel", KERNELS, kind="list", width=110, offered=by_loop),
        Choice("iterations", "Iterations", (1, 12), 6, kind="number", width=110, offered=by_loop),
        Choice(
            "shuffled",
            "Shuffled",
            kind="toggle",
            help="A control: odd and even are assigned to the images at random, so the experts learn nothing true and "
            "all the work is the gater's.",
            offered=by_loop,
        ),
        Choice("experts", "Experts", (2, 4), width=120, key="lines", offered=by_em),
        Choice("start", "Start", STARTS, kind="list", width=140, offered=by_em),
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
