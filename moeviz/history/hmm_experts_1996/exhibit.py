"""The picture of a mixture of hidden Markov models, in numbers: the gate makes up its mind as somebody speaks."""

from functools import partial
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.errors import MoevizError
from moeviz.history.hmm_experts_1996.model import (
    ASSIGNMENTS,
    SPEAKERS,
    STARTS,
    HMMMixture,
    names,
    settled_after,
    trace_of,
    train,
)
from moeviz.history.shared.datasets import Utterances, japanese_vowels
from moeviz.history.shared.exhibit import LOAD_BY_LABEL, Exhibit, Page, PageControl, words_beside
from moeviz.history.shared.gates import softmax
from moeviz.history.shared.results import shipped

TEXT = words_beside(__file__)


def slowest(result: HMMMixture, data: Utterances) -> int:
    """Return the utterance that takes most frames to come to its last expert; the first of several."""
    return int(settled_after(result.logits(data).argmax(axis=-1)).argmax())


LATE = 4  # frames seen when it turns: early enough to be typical, late enough to be visible


def first_right(result: HMMMixture, data: Utterances) -> int:
    """The first utterance that begins with another expert, turns to its speaker's and stays; 0 where none does."""
    winner = result.logits(data).argmax(axis=-1)
    right = np.array(result.speaker_of)[winner] == data.speaker
    turns = (right[1:] != right[:-1]).sum(axis=0)
    return int((right[LATE - 1] & ~right[: LATE - 1].any(axis=0) & (turns == 1)).argmax())


def gate_over_time(result: HMMMixture, data: Utterances, number: int) -> pd.DataFrame:
    """Return the gate after each frame of one utterance: gₖ = softmaxₖ(log πₖ + log p(o₁ … oₜ | λₖ)).

    Before the first frame, the gate is the prior πₖ. Each expert is matched to the speaker of most
    of its training utterances, one expert per speaker; experts trained by speaker belong to that one.

    One row per frame and expert, frame by frame. Columns: frame int64 (frames so far, from 0; 6.4 ms each) ·
    expert int16 · speaker int16 (whom the expert is matched to, 1 to 9; 0 for nobody) · own bool (True if that is the
    actual speaker) · share float64 (of the gate; a frame's shares sum to 1).

    Raises `MoevizError` for an utterance that does not exist.

    Source: Smyth, NIPS 9:648-654 (1996), for the mixture; the gate over time is its E step after every frame.
    """
    if not 0 <= number < len(data.frames):
        raise MoevizError(f"There is no utterance {number}. Choose a number from 0 to {len(data.frames) - 1}.")
    logits = result.logits(Utterances(data.frames[number : number + 1], data.speaker[number : number + 1]))[:, 0]
    shares = np.concatenate([result.prior[None], softmax(logits)])
    frames, experts = shares.shape
    speaker = np.array(result.speaker_of)
    each = {"expert": np.arange(experts, dtype=np.int16), "speaker": (speaker + 1).astype(np.int16)}
    each |= {"own": speaker == data.speaker[number]}
    columns = {"frame": np.repeat(np.arange(frames), experts)}
    columns |= {name: np.tile(values, frames) for name, values in each.items()}
    return pd.DataFrame(columns | {"share": shares.ravel()})


def settling(result: HMMMixture, data: Utterances) -> pd.DataFrame:
    """Count the utterances with the right expert, and with their final one, after each number of frames.

    The expert of an utterance is the one with the highest share of the gate. It is right if that expert is matched to
    the actual speaker. After its end, an utterance counts as it ended, so that every share is a share of all
    utterances.

    One row per frame. Columns: frame int64 (frames so far, from 1) · settled float64 (share of the utterances
    that are with their last expert and stay there) · right float64 (share of the utterances) · chance float64 (share
    right at random: 1 / K of those whose speaker has an expert, K experts) · speaking int64 (utterances with at
    least this many frames).

    Source: Smyth, NIPS 9:648-654 (1996), for the mixture; the gate over time is its E step after every frame.
    """
    winner = result.logits(data).argmax(axis=-1)
    frames = np.arange(1, len(winner) + 1)
    lengths = np.array([len(each) for each in data.frames])
    return pd.DataFrame(
        {
            "frame": frames,
            "settled": (settled_after(winner) <= frames[:, None]).mean(axis=1),
            "right": (np.array(result.speaker_of)[winner] == data.speaker).mean(axis=1),
            "chance": np.isin(data.speaker, result.speaker_of).mean() / len(result.prior),
            "speaking": (lengths >= frames[:, None]).sum(axis=1),
        }
    )


TABLE = Path(__file__).with_name("sweep.csv")


def shipped_accuracies() -> pd.DataFrame:
    """Return the accuracy of soft and hard EM at finding Smyth's two models, from either start, data set by data set.

    Accuracy is the share of a data set's 40 sequences, of 200 frames each, that are with the expert of their model.

    One row per assignment, start and data set. Columns: assignment str (soft or hard) · start str (k-means or random) ·
    data_set int64 (its seed, and that of the start) · accuracy float64 (0.5 is chance) · found bool (0.9 or more).

    Source: Smyth, NIPS 9:648-654 (1996), for the two models; their constants are from memory.
    """
    return pd.read_csv(TABLE).astype({"assignment": "str", "start": "str"})


FRAME = "frames heard"
LINES = {"right": "with its speaker's expert", "settled": "with its final expert"}


def gate_areas(frame: pd.DataFrame) -> alt.LayerChart:
    """The shares of the gate, stacked, the speaker's own expert at the bottom. Columns: those of `gate_over_time`."""
    frame = frame.assign(
        speaks=frame["speaker"].map(lambda who: f"speaker {who}" if who else "nobody"),
        height=(~frame["own"]).astype(int),
    )
    own = frame[frame["own"]]
    whose = f"orange: expert {own['expert'].iloc[0]}, the speaker's" if len(own) else "no expert is the speaker's"
    x = alt.X("frame:Q", title=f"{FRAME} ({whose})", axis=theme.whole_axis(), scale=alt.Scale(nice=False))
    areas = (
        alt.Chart(frame)
        .mark_area(opacity=0.85)
        .encode(
            x=x,
            y=alt.Y("share:Q", title="share of the gate", stack="zero", axis=theme.share_axis()),
            color=_expert_colour(frame),
            order=alt.Order("height:Q"),
            tooltip=theme.tooltip(
                frame=(FRAME, "d"), expert="d", speaks=("matched to", ""), share=("share of the gate", ".1%")
            ),
        )
    )
    edge = theme.lines(own, {"color": theme.ACCENT, "strokeWidth": 3}, x=x, y="share:Q")
    return theme.framed(areas + edge, theme.MEDIUM)


def _expert_colour(frame: pd.DataFrame) -> alt.Color:
    experts = sorted(int(expert) for expert in frame["expert"].unique())
    busiest = frame.groupby("expert")["share"].sum().sort_values(ascending=False, kind="stable").index
    colours = theme.expert_colours(len(experts), tuple(busiest[: theme.FOCUS]))
    return theme.colour("expert", experts, colours, title="expert", columns=6)


def settling_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Share of utterances that are right, and that are settled, by number of frames. Columns: those of `settling`."""
    lines = frame.rename(columns=LINES).melt(["frame", "speaking", "chance"], list(LINES.values()), "what", "share")
    drawn = theme.lines(
        lines,
        {"point": True},
        x=alt.X("frame:Q", title=FRAME, axis=theme.whole_axis(), scale=alt.Scale(nice=False, zero=False)),
        y=alt.Y("share:Q", title="share of utterances", axis=theme.share_axis(), scale=alt.Scale(domain=[0, 1])),
        color=theme.colour("what", LINES.values(), theme.PAIR, direction="vertical"),
        tooltip=theme.tooltip(
            frame=(FRAME, "d"),
            what=("utterance", ""),
            share=("share of utterances", ".1%"),
            chance=("right at random", ".1%"),
            speaking=("utterances at least this long", "d"),
        ),
    )
    return theme.framed(drawn + theme.named_reference(frame.head(1), "chance", "right at random"), theme.MEDIUM)


def soft_and_hard(frame: pd.DataFrame) -> alt.LayerChart:
    """Accuracy of each data set, by assignment and start. Columns: those of `shipped_accuracies`."""
    rows = frame.assign(way=frame["assignment"] + ", " + frame["start"])
    ways = list(dict.fromkeys(rows["way"]))
    title = "sequences grouped correctly (dashed: at random)"
    many = rows.groupby(["way", "assignment", "start", "accuracy"], as_index=False).size()
    dots = (
        alt.Chart(many)
        .mark_circle(opacity=0.75)
        .encode(
            x=alt.X("accuracy:Q", title=title, axis=theme.share_axis(), scale=alt.Scale(zero=False)),
            y=alt.Y("way:N", title=None, sort=ways),
            color=theme.colour("assignment", ["soft", "hard"], theme.PAIR).legend(None),
            size=alt.Size(
                "size:Q",
                scale=alt.Scale(domain=[0, int(many["size"].max())], range=[0, 500]),
                legend=alt.Legend(title="data sets", orient="top", values=[1, 5, 10], symbolFillColor=theme.NOTE),
            ),
            tooltip=theme.tooltip(
                assignment="", start="", accuracy=("sequences grouped correctly", ".1%"), size=("data sets", "d")
            ),
        )
    )
    lot = theme.reference(pd.DataFrame({"accuracy": [0.5]}), "accuracy", axis="x")
    return theme.framed(dots + lot, theme.rows_height(len(ways)))


GATE_OVER_TIME = TEXT.chart(gate_over_time, gate_areas)
SETTLING = TEXT.chart(settling, settling_lines)
SOFT_AND_HARD = TEXT.chart(shipped_accuracies, soft_and_hard)


def picture(page: Page, result: HMMMixture) -> None:
    """Draw the gate over the time of one utterance: of the test utterances, one that is looked for, or any other."""
    _, data = japanese_vowels()
    called, offered = names(data), {"one that ends right": first_right(result, data), "slowest": slowest(result, data)}
    page.heading(GATE_OVER_TIME)
    with page.row():
        start = page.choose(PageControl("start", "Begin with", tuple(offered), kind="buttons", key=""))
        utterances = range(len(called))
        number = page.choose(
            PageControl(
                "utterance", "Utterance", utterances, offered[start], "list", 260, written=called.__getitem__, key=""
            )
        )
    page.picture(GATE_OVER_TIME, result, data, number)


def details(page: Page, result: HMMMixture) -> None:
    """Draw the figures, how fast the gate settles, who ends with which expert, and soft against hard assignment."""
    _, data = japanese_vowels()
    shares = {"Correct, training": f"{result.training_share:.0%}", "Correct, test": f"{result.test_share:.0%}"}
    page.figures(TEXT.figures(shares | {"90% settled": f"{result.frames_needed} frames"}))
    page.chart(SETTLING, result, data)
    ends = trace_of(result, slots=1, ends=True)
    page.chart(LOAD_BY_LABEL, ends, model=ends.model)
    page.chart(SOFT_AND_HARD)


UNKNOWN = {"offered": lambda chosen: not chosen["supervised"]}  # a choice where nobody says who speaks
EXHIBIT = Exhibit(
    choices=(
        PageControl(
            "supervised",
            "Speakers known",
            kind="toggle",
            key="told",
            help="An expert per speaker, fitted by hmmlearn.",
        ),
        PageControl("states", "States per expert", (1, 2, 3, 5), 3, width=140),
        PageControl("experts", "Experts", (2, 5, 9, 12), SPEAKERS, width=140, **UNKNOWN),
        PageControl("assignment", "Assignment", ASSIGNMENTS, kind="list", width=120, **UNKNOWN),
        PageControl("start", "Start", STARTS, kind="list", width=130, **UNKNOWN),
    ),
    settings=lambda chosen: {"experts": SPEAKERS} | chosen,
    train=train,
    trace_of=partial(trace_of, slots=1),
    picture=picture,
    details=details,
    charts=(
        (GATE_OVER_TIME, lambda: (shipped(HMMMixture), japanese_vowels()[1], 3)),
        (SETTLING, lambda: (shipped(HMMMixture), japanese_vowels()[1])),
        (SOFT_AND_HARD, lambda: ()),
    ),
)
