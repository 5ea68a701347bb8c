"""The exhibit of 1991: where each expert's answer changes, how fast the error falls, and table 1 of the paper."""

from itertools import combinations
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.history.local_experts_1991.model import (
    ERRORS,
    HIDDEN,
    MAX_EPOCHS,
    STOP_AT,
    AdaptiveMixture,
    trace_of,
    train,
    train_network,
)
from moeviz.history.shared.datasets import Vowels, encode, stand_in
from moeviz.history.shared.exhibit import (
    LOAD_BY_LABEL,
    Exhibit,
    Page,
    PageControl,
    ends_of,
    formant_plane,
    plane_frame,
    plane_of,
    words_beside,
)
from moeviz.history.shared.results import shipped

TEXT = words_beside(__file__)
BORDER_POINTS = 201  # along a border of the gate
MIXTURE, NETWORK = "mixture of experts", "one network, backpropagation"
EVERY_EPOCH = 10  # epochs: a curve of as many points as can be seen
SAME = 1e-9  # logits: on a border two are equal, but for rounding


def decision_lines(result: AdaptiveMixture, data: Vowels, at: int = -1) -> pd.DataFrame:
    """Samples and lines of a mixture at one of its recorded epochs: figures 2 and 3 of the paper.

    A sample belongs to the expert with the highest mixing proportion. An expert's line is where its output is 0.5; it
    is drawn for the experts to which a sample belongs. The gate's line is where two of these have the same proportion
    and no other has a larger one.

    One row per sample, and two per line, its ends. Columns: what str (sample, line or gate) · f1, f2 float64 (kHz) ·
    expert int16 (for the gate's lines, the lower of the two) · vowel str ("" for lines) · right bool (True if the
    mixture's answer is on the right side of 0.5; True for lines) · line str ("" for samples; which line this is an end
    of).

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), figures 2 and 3.
    """
    inputs, state = encode(data)[0], result.state(at)
    winner = state.proportions(inputs).argmax(axis=1)
    low, high = plane_of(inputs)
    won = np.unique(winner).tolist()
    lines = [("line", expert, f"{expert}", ends_of(state.experts[:, expert], low, high)) for expert in won]
    lines += [
        ("gate", one, f"{one} and {other}", _border(state.gate, one, other, low, high))
        for one, other in combinations(won, 2)
    ]
    return plane_frame(data, winner, state.answer(inputs), lines)


def error_by_epoch(result: AdaptiveMixture, data: Vowels) -> pd.DataFrame:
    """Return the average squared error on the training speakers by epoch: of the mixture, and of a network to compare.

    The network has one hidden layer and about as many parameters, and starts from the same seed; both stop at 0.08.

    One row per system and tenth epoch, and the last. Columns: system str · epoch int64 · squared_error float64 · goal
    float64 (0.08, where the paper stops).

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), table 1.
    """
    network = train_network(data, HIDDEN[len(result.expert_lines[0].T)], int(result.settings["seed"]))
    frames = []
    for name, errors in ((MIXTURE, result.error_by_epoch), (NETWORK, network.error_by_epoch)):
        epochs = np.unique([*range(0, len(errors), EVERY_EPOCH), len(errors) - 1])
        system = pd.Series([name] * len(epochs), dtype="str")
        frames.append(pd.DataFrame({"system": system, "epoch": epochs, "squared_error": errors[epochs]}))
    return pd.concat(frames, ignore_index=True).assign(goal=STOP_AT)


def _border(gate: np.ndarray, one: int, other: int, low: np.ndarray, high: np.ndarray) -> list[tuple[float, float]]:
    """Return the part of the line between two experts along which no third one is preferred; it may be empty."""
    ends = ends_of(gate[:, one] - gate[:, other], low, high)
    if len(ends) < 2:
        return []
    along = np.linspace(*np.array(ends), BORDER_POINTS)
    logits = np.column_stack([along, np.ones(BORDER_POINTS)]) @ gate
    highest = np.flatnonzero(logits[:, one] >= logits.max(axis=1) - SAME)
    return [tuple(along[i].tolist()) for i in highest[[0, -1]]] if len(highest) > 1 else []


def error_curves(frame: pd.DataFrame) -> alt.LayerChart:
    """Return two falling curves, and the error at which both stop. Columns: those of `error_by_epoch`."""
    curves = theme.lines(
        frame,
        {"strokeWidth": 3},
        x=alt.X("epoch:Q", title="epoch"),
        y=alt.Y("squared_error:Q", title="average squared error", scale=alt.Scale(domainMin=0)),
        color=theme.colour("system", [MIXTURE, NETWORK], theme.PAIR, columns=1, labelLimit=280),
        tooltip=theme.tooltip(system="", epoch=",d", squared_error=("average squared error", ".3f")),
    )
    goal = alt.Chart(frame.head(1)).mark_rule(color=theme.NOTE, strokeDash=list(theme.DASH)).encode(y="goal:Q")
    return theme.framed(curves + goal, theme.MEDIUM)


DECISION_LINES = TEXT.chart(decision_lines, formant_plane)
ERROR_CURVES = TEXT.chart(error_by_epoch, error_curves)


TABLE = Path(__file__).with_name("sweep.csv")
# The number of experts left; epochs, and their standard deviation; accuracies on training and test speakers.
PRINTED = {
    "4 experts": ("2 or 3", 1124, 23, 0.88, 0.90),
    "8 experts": ("2 or 3", 1083, 12, 0.88, 0.90),
    "backpropagation, 6 hidden units": ("", 2209, 83, 0.88, 0.90),
    "backpropagation, 12 hidden units": ("", 2435, 124, 0.88, 0.90),
}
PAPER, MEASURED, STAND_IN = "the paper, measured vowels", "ours, measured vowels", "ours, stand-in vowels"
FIGURES = ["experts left", "epochs", "deviation", "training", "test"]


def shipped_table_1() -> pd.DataFrame:
    """Return the paper's table, each line with ours: of 25 seeds, for the stand-in and for the measured vowels.

    One row per system and whose figures they are. Columns: system, of str · experts left str ("2", "2 or 3"; "" for a
    network without experts) · epochs, deviation float64 (mean and standard deviation of the epochs to the error 0.08
    of the runs that reach it) · training, test float64 (mean share of the samples classified correctly) · missed
    float64 (runs that do not reach the error; NaN for the paper).

    Source: Jacobs, Jordan, Nowlan & Hinton, Neural Computation 3(1):79-87 (1991), table 1 and section 2.
    """
    return pd.read_csv(TABLE, dtype={"experts left": "str"}).fillna({"experts left": ""})


def picture(page: Page, result: AdaptiveMixture) -> None:
    """Draw how the experts divide the plane at a recorded epoch."""
    data = stand_in()
    page.text(f"The vowels are a {data.source}.")
    epoch = page.choose(PageControl("epoch", "Epoch", result.recorded, result.recorded[-1], written="{:,}".format))
    page.chart(DECISION_LINES, result, data, result.recorded.index(epoch))


def details(page: Page, result: AdaptiveMixture) -> None:
    """Draw the figures, the rival, table 1, and who wins the vowels."""
    ended = f"{result.epochs:,} epochs" if result.epochs is not None else f"not within {MAX_EPOCHS:,} epochs"
    figures = {
        "Error 0.08 reached": ended,
        "Experts left": str(len(result.surviving)),
        "Correct, training": f"{result.train_accuracy:.0%}",
        "Correct, test": f"{result.test_accuracy:.0%}",
    }
    page.figures(TEXT.figures(figures))
    page.chart(ERROR_CURVES, result, stand_in())
    page.title("Table 1 of the paper, and ours")
    page.markdown(
        "Means of 25 seeds, as in the paper, with the standard deviation of the epochs; every run reached the error. "
        "The measured vowels do not ship; their rows were computed where they can be read."
    )
    table = shipped_table_1().set_index("system").drop(columns="missed")
    written = {"epochs": "{:,.0f}", "deviation": "{:.0f}", "training": "{:.0%}", "test": "{:.0%}"}
    page.table(table.assign(**{name: table[name].map(form.format) for name, form in written.items()}))
    winners = trace_of(result, slots=1).select(layers=result.recorded[-1:])
    page.chart(LOAD_BY_LABEL, winners, model=winners.model)


EXHIBIT = Exhibit(
    choices=(
        PageControl("experts", "Experts", (2, 4, 8), 4, width=160),
        PageControl(
            "error",
            "Error function",
            tuple(ERRORS),
            "mixture likelihood",
            kind="list",
            width=220,
            help="The three above, in their order: the mixture answers, one expert answers, a likelihood.",
        ),
    ),
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=tuple((chart, lambda: (shipped(AdaptiveMixture), stand_in())) for chart in (DECISION_LINES, ERROR_CURVES)),
)
