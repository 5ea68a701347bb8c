"""The share of wrong verdicts of `moeviz decide`: simulated routing of twenty processes, in logs of three sizes.

    python -m benchmarks.decide [--draws N] [--first SEED] [--only PROCESS]

A process says how much each expert of each layer is favoured in each of 120 texts. The first 60 are the log that is
judged. The other 60 are what comes afterwards, of which the judge sees nothing: "Worth a trial" is wrong if a plan made
from the whole log takes less than half of the required twentieth off the busiest device afterwards, and "Not now" is
wrong if it takes off one and a half times as much. "Loads drift" is wrong of a process whose texts have no order, and
"No drift beyond chance" if more than a tenth of the choices really move between the halves. "Too little evidence" is
never wrong. One row per process and size: the verdicts, how many are wrong, and the changes afterwards. A process whose
period is longer than the log cannot be judged from it; `decide` says so next to its verdict, and its rows are marked.

4 layers of 64 experts, 6 per token, 60 texts, 8 devices.
"""

import argparse
from collections import Counter
from collections.abc import Callable

import numpy as np

from moeviz.metrics.placement import rebalance_experts
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace, token_frame
from moeviz.serving.answers import split_memory
from moeviz.serving.decision import WORTH, persistence, persistence_sentence, placement_judgements, placement_verdict
from moeviz.serving.requests import different_texts

LAYERS, EXPERTS, TOP_K, TEXTS, DEVICES = 4, 64, 6, 60, 8
TOKENS, AFTERWARDS = (3_000, 9_000, 21_000), 9_000
SPREAD = 0.6  # of the logarithms of experts' loads
SHAPE = LAYERS, EXPERTS
Favour = Callable[[np.random.Generator], np.ndarray]  # -> (120, LAYERS, EXPERTS) logarithms


def _always(spread: float) -> Favour:
    return lambda rng: np.tile(rng.normal(0, spread, SHAPE), (2 * TEXTS, 1, 1))


def _own(spread: float) -> Favour:
    return lambda rng: rng.normal(0, spread, (2 * TEXTS, *SHAPE))


def _in_turn(states: int, texts: int) -> Favour:
    """Make each of several states last for a number of texts, one after the other, again and again."""
    return lambda rng: rng.normal(0, SPREAD, (states, *SHAPE))[np.arange(2 * TEXTS) // texts % states]


def _walk(step: float) -> Favour:
    return lambda rng: rng.normal(0, SPREAD, SHAPE) + rng.normal(0, step, (2 * TEXTS, *SHAPE)).cumsum(axis=0)


def _trend(rng: np.random.Generator) -> np.ndarray:
    one, other = rng.normal(0, SPREAD, (2, *SHAPE))
    part = np.linspace(0, 1, 2 * TEXTS)[:, None, None]
    return np.asarray((1 - part) * one + part * other)


def _mix(states: int) -> Favour:
    return lambda rng: rng.normal(0, SPREAD, (states, *SHAPE))[rng.integers(0, states, 2 * TEXTS)]


def _regimes(rng: np.random.Generator) -> np.ndarray:
    """Stay in one of two states, and change to the other after a text in one of twelve cases."""
    return np.asarray(rng.normal(0, SPREAD, (2, *SHAPE))[(rng.random(2 * TEXTS) < 1 / 12).cumsum() % 2])


def _hot(*experts: int, fading: bool = False) -> Favour:

    def favour(_: np.random.Generator) -> np.ndarray:
        found = np.zeros((2 * TEXTS, *SHAPE))
        found[..., list(experts)] = 2.0
        return found * np.linspace(1, 0, 2 * TEXTS)[:, None, None] if fading else found

    return favour


def _both(rng: np.random.Generator) -> np.ndarray:
    return np.asarray(_always(SPREAD)(rng) + _own(SPREAD)(rng))


def _once(rng: np.random.Generator) -> np.ndarray:
    """Change six texts in a row, and no others."""
    found = np.zeros((2 * TEXTS, *SHAPE))
    found[20:26] = rng.normal(0, 2 * SPREAD, SHAPE)
    return found


PROCESSES: dict[str, Favour] = {
    "stationary": _always(SPREAD),
    "even": _always(0.0),
    "rotating": lambda rng: rng.normal(0, SPREAD, (2, *SHAPE))[(2 * np.arange(2 * TEXTS) >= TEXTS).astype(int)],
    "bursty": _own(SPREAD),
    "nearly even": _always(0.1),
    "slightly uneven": _always(0.3),
    "very uneven": _always(1.2),
    "one hot expert": _hot(5),
    "two hot experts on one device": _hot(0, 1),
    "a hot device that cools": _hot(*range(8), fading=True),
    "stationary, and each text its own": _both,
    "three kinds of text at random": _mix(3),
    "six texts unlike the others": _once,
    "random walk": _walk(0.05),
    "fast random walk": _walk(0.3),
    "trend": _trend,
    "two regimes": _regimes,
    "period of 4 texts": _in_turn(4, 1),
    "period of 20 texts": _in_turn(2, 10),
    "one text sixty times": _own(SPREAD),
    "period of 120 texts": _in_turn(2, TEXTS),  # the log ends where the first state does
}
KINDS = (*PROCESSES,)[:4]
UNSEEN = "period of 120 texts"  # shown with the others, and counted apart
IN_NO_ORDER = {*PROCESSES} - {"rotating", "a hot device that cools", "six texts unlike the others", "trend"}
IN_NO_ORDER -= {name for name in PROCESSES if "walk" in name or "regimes" in name or "period" in name}


def _draw_trace(favour: np.ndarray, tokens: int, rng: np.random.Generator) -> RoutingTrace:
    """Draw a trace in which each token takes its experts without replacement, by their favour in its text."""
    each, parts = tokens // len(favour), []
    for own in favour:
        scores = own[:, None] + rng.gumbel(size=(LAYERS, each, EXPERTS))
        parts.append(np.argpartition(-scores, TOP_K, axis=2)[..., :TOP_K])
    model = ModelInfo("made up", "test", (*range(LAYERS),), (EXPERTS,) * LAYERS, TOP_K, slot_order="unknown")
    frame = token_frame(
        np.repeat(np.arange(len(favour)), each), np.tile(np.arange(each), len(favour)), ["x"] * each * len(favour)
    )
    return RoutingTrace(model, frame, np.concatenate(parts, axis=1).astype(np.int16))


def _log_and_afterwards(process: str, tokens: int, seed: int) -> tuple[RoutingTrace, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    favour = PROCESSES[process](rng)
    trace = _draw_trace(favour[:TEXTS], tokens, rng)
    if process == "one text sixty times":
        trace.experts[:] = np.tile(trace.experts[:, : tokens // TEXTS], (1, TEXTS, 1))
    return trace, favour, rng


def made_routing(process: str, tokens: int, seed: int) -> RoutingTrace:
    """Draw the log of a process."""
    return _log_and_afterwards(process, tokens, seed)[0]


def _loads(trace: RoutingTrace) -> np.ndarray:
    return np.stack([np.bincount(layer.ravel(), minlength=EXPERTS) for layer in trace.experts])


def _change(log: np.ndarray, afterwards: np.ndarray) -> float:
    """Return the change in the busiest device's mean load afterwards by a plan of the log's loads."""
    before, planned = [], []
    for own, later in zip(log, afterwards, strict=True):
        plan = rebalance_experts(own[None], EXPERTS, 1, 1, DEVICES)[0]
        before.append(later.reshape(DEVICES, -1).sum(axis=1).max())
        planned.append(later[plan].reshape(DEVICES, -1).sum(axis=1).max())
    return float(np.sum(planned) / np.sum(before) - 1)


def verdict(trace: RoutingTrace) -> str:
    """Return the first words on balancing."""
    return (placement_verdict(placement_judgements(trace, DEVICES)) or "").partition(":")[0]


def drifts(trace: RoutingTrace) -> bool:
    """Return True if the loads are reported to drift."""
    return (persistence_sentence(persistence(trace)) or "").startswith("Loads drift")


def split_gains(trace: RoutingTrace) -> tuple[list[float], float]:
    """Return what a split changes in each judgement, and two standard errors of it."""
    found = split_memory(trace)
    return (found["split"] - found["equal"]).tolist(), 2 * (0.5 / (len(trace.tokens) // 2 * TOP_K * LAYERS)) ** 0.5


def judged(process: str, tokens: int, seed: int) -> tuple[str, bool, str, bool, float]:
    """Return the verdict on balancing, whether it is wrong, those of drift, and the change afterwards."""
    log, favour, rng = _log_and_afterwards(process, tokens, seed)
    change = _change(_loads(log), _loads(_draw_trace(favour[TEXTS:], AFTERWARDS, rng)))
    halves = [_loads(_draw_trace(part, AFTERWARDS, rng)) for part in (favour[: TEXTS // 2], favour[TEXTS // 2 : TEXTS])]
    moved = float(np.abs(halves[0] - halves[1]).sum() / halves[0].sum() / 2)
    known = different_texts(log)[0]
    balance = verdict(known)
    drift = (persistence_sentence(persistence(known)) or "").partition(":")[0]
    wrong = (balance == "Worth a trial" and change > -WORTH / 2) or (balance == "Not now" and change < -1.5 * WORTH)
    wrong_drift = (drift == "Loads drift" and process in IN_NO_ORDER) or (drift.startswith("No drift") and moved > 0.1)
    return balance, wrong, drift, wrong_drift, change


def main() -> None:
    """Print a row for each process and size, and how many rows have more than one wrong verdict in twenty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds, one per draw")
    parser.add_argument("--only", choices=[*PROCESSES], help="one process")
    args = parser.parse_args()
    rows = bad = 0
    for process in [args.only] if args.only else PROCESSES:
        for tokens in TOKENS:
            found = [judged(process, tokens, seed) for seed in range(args.first, args.first + args.draws)]
            balance, wrong, drift, wrong_drift, changes = zip(*found, strict=True)
            counted = "; ".join(
                ", ".join(f"{words} {number}" for words, number in Counter(said).most_common()) + f", wrong {sum(is_)}"
                for said, is_ in ((balance, wrong), (drift, wrong_drift))
            )
            span = f"{100 * min(changes):+.0f}% to {100 * max(changes):+.0f}%"
            print(f"{process}{' (unseen)' * (process == UNSEEN)}, {tokens:,}: {counted}; afterwards {span}", flush=True)
            if process != UNSEEN:
                rows, bad = rows + 1, bad + (20 * max(sum(wrong), sum(wrong_drift)) > args.draws)
    print(f"{rows} rows; more than 1 in 20 wrong in {bad}.")


if __name__ == "__main__":
    main()
