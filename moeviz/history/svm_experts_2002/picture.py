"""What the loop of 2002 comes to, in numbers: which experts are full, what that costs, and what more of them bring."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from moeviz.history.shared.results import Watch, unwatched
from moeviz.history.svm_experts_2002.model import SVMMixture, assign, train

HAS_ROOM, TAKEN_IN, TURNED_AWAY = "first choice, and has room", "sent on by a full expert", "first choice, but full"
SWEEP = Path(__file__).with_name("sweep.csv")
SEEDS = range(5)
SWEPT_EXPERTS = {"linear": (2, 4, 8, 16, 32), "rbf": (2, 4, 8, 16)}
SWEPT_ROOM = (1, 50, 125, 250, 500, 1000, 3500)  # of 8 experts: the last is as good as no limit
AT = 8  # experts, where room is swept


def expert_room(result: SVMMixture, at: int = -1) -> pd.DataFrame:
    """Whom each expert was to learn from by the gater's liking, and whom it did get, at the end of one iteration.

    Of all training examples. What an expert learns from next is those whose first choice it is and for which it has
    room, and those sent on by experts that are full; together at most its capacity, N/M + c. Those turned away go to
    the expert that the gater weighs next highest and that has room.

    One row per expert and part, three parts each. Columns: iteration int32 (from 1) · expert int16 · part str ·
    examples int64 · capacity int64 (examples) · uniform float64 (N / M) · turned_away float64 (share of those whose
    first choice the expert is; 0 where there are none).

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

    By lot is the same rule after a gater whose weights are drawn at random: then no expert is liked more than another.

    One row per iteration. Columns: iteration int32 (from 1) · overflow float64 (share of examples) · by_lot float64
    (the same) · busiest float64 (examples whose first choice the most liked expert is, in even shares of N/M).

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
    """How many digits are called odd that are even, or the reverse, iteration by iteration.

    With even weights the experts of the same iteration count alike; in iteration 1, where they learn from random parts,
    that is the paper's uniform mixture.

    One row per iteration and system. Columns: iteration int32 (from 1) · system str · error float64 (share of digits).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002).
    """
    systems = {
        "gater, test": result.test_error,
        "gater, training": result.train_error,
        "even weights, test": result.even_error,
        "one machine, test": np.full(len(result.test_error), result.single_error),
    }
    return long_errors(systems)


def long_errors(systems: dict[str, np.ndarray]) -> pd.DataFrame:
    """Errors by iteration of several systems, below each other. Columns: those of `error_by_iteration`."""
    frame = pd.DataFrame(systems).rename_axis("iteration").reset_index()
    frame["iteration"] = (frame["iteration"] + 1).astype(np.int32)
    return frame.melt("iteration", var_name="system", value_name="error").astype({"system": "str"})


def sweep(watch: Watch = unwatched) -> pd.DataFrame:
    """Train with each number of experts, and 8 experts with each room, by five seeds: minutes. Written as SWEEP.

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
    """Test error by number of experts with room 1: mean of five seeds, from the table that ships.

    The control are linear experts that learn from classes dealt out anew among all images, so they know nothing: what
    is right is the gater's. Its four hidden units, and a line from each expert, tell odd from even by themselves the
    better the more experts there are.

    One row per kernel, system and number of experts. Columns: kernel str · system str · experts int64 · error float64
    (share of the 1,000 test digits) · lowest, highest float64 (of the seeds).

    Source: Collobert, Bengio & Bengio, Neural Computation 14(5):1105-1114 (2002); the control is ours.
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
    """What 8 linear experts do with more and more room: mean of five seeds, from the table that ships.

    The capacity factor is the capacity N/M + c in even shares N/M: 1 is no room to choose, 8 is no limit at all.

    One row per room and measure. Columns: room int64 (examples, c) · capacity_factor float64 · what str · share float64
    (of the training examples; of the test digits for the error).

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
