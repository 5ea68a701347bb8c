"""The results of the loop of 2002, in numbers: which experts are full, what that costs, and what more experts gain."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from moeviz.history.shared.datasets import VOWELS, Vowels, encode
from moeviz.history.shared.exhibit import plane_of
from moeviz.history.shared.results import Watch, unwatched
from moeviz.history.svm_experts_2002.em import SoftMixture
from moeviz.history.svm_experts_2002.model import SVMMixture, assign, train

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
    int16 · vowel str ("" for lines) · right bool (True if the mixture's answer is on the right side of 0.5; True for
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
    """Count the vowels on the wrong side of 0.5, iteration by iteration.

    One row per iteration and system. Columns: iteration int32 (from 1) · system str · error float64 (share of samples).

    Source: Jordan & Jacobs, Neural Computation 6(2):181-214 (1994), for the method.
    """
    single = np.full(len(result.test_error), result.single_error)
    systems = {"mixture, test": result.test_error, "mixture, training": result.train_error, "one machine, test": single}
    return long_errors(systems)
