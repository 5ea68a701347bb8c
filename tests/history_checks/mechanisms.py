"""Systems compared with something plainer, term by term, and mechanisms whose breakage such a comparison must notice.

A claim compares the system with a loop, a case worked by hand, slopes taken by differences. It takes milliseconds. Its
controls are two mechanisms, of the many that it covers, broken: a piece of the source of the function is exchanged.
"""

import inspect
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from history_checks.claims import MECHANISM, NOT_PRINTED, Claim
from history_checks.negative_controls import Control, swapped

EXACT = 1e-5  # of the largest value; rounding and differences leave about a hundredth of that
Difference = Callable[[int], float]  # of a seed: how far the system is from what it is compared with


@dataclass(frozen=True, slots=True, eq=False)
class Mechanism:
    """One mechanism of a system."""

    what: str  # in words: "an answer is scaled by the router"
    claim: str  # what it is compared with: "a plain loop over words"
    off: Difference
    function: Callable[..., Any]  # what has the mechanism
    right: str  # a piece of its source
    wrong: str  # what stands there while it is broken


def noticed_by(claim: str, off: Difference, *rows: tuple[str, Callable[..., Any], str, str]) -> tuple[Mechanism, ...]:
    """Mechanisms that one claim notices. A row: what, function, right, wrong."""
    return tuple(Mechanism(what, claim, off, *rest) for what, *rest in rows)


def claims_about(mechanisms: Sequence[Mechanism], seed: int) -> list[Claim]:
    """A claim for each mechanism; what several are compared with is measured once."""
    found = {off: _measured(off, seed) for off in dict.fromkeys(mechanism.off for mechanism in mechanisms)}
    return [_claim(mechanism, found[mechanism.off]) for mechanism in mechanisms]


def controls_for(mechanisms: Sequence[Mechanism]) -> tuple[Control, ...]:
    """For each mechanism its control: the same claim, measured with it broken."""
    return tuple(
        Control(
            f"{mechanism.right.strip()} → {mechanism.wrong.strip() or 'nothing'}",
            (inspect.unwrap(mechanism.function), "__code__", broken_code(mechanism)),
            (_what(mechanism),),
            lambda quick, seed, mechanism=mechanism: [_claim(mechanism, mechanism.off(seed))],
        )
        for mechanism in mechanisms
    )


def broken_code(mechanism: Mechanism) -> Any:
    """The function's code with that piece exchanged wherever it is. Raises `ValueError` where it is nowhere."""
    function = inspect.unwrap(mechanism.function)
    source = textwrap.dedent(inspect.getsource(function))
    if mechanism.right not in source:
        raise ValueError(f"{function.__qualname__} has no {mechanism.right!r} to break.")
    made: dict[str, Any] = {}
    exec(source.replace(mechanism.right, mechanism.wrong), function.__globals__, made)
    return inspect.unwrap(made[function.__name__]).__code__


def apart(*pairs: tuple[Any, Any]) -> float:
    """How far ours is from what is wanted: the largest difference of any pair, as a share of the pair's largest value.

    Infinite where shapes differ.
    """
    found = []
    for ours, wanted in (tuple(np.asarray(_plain(each), np.float64) for each in pair) for pair in pairs):
        if ours.shape != wanted.shape:
            return float("inf")
        found.append(np.abs(ours - wanted).max(initial=0) / (np.abs(wanted).max(initial=0) or 1))
    return float(np.max(found))


def slopes(function: Callable[[np.ndarray], float], at: np.ndarray, by: float = 1e-5) -> np.ndarray:
    """The gradient of a function of an array, by central differences."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = by
        found[place] = (function(at + step) - function(at - step)) / (2 * by)
    return found


@contextmanager
def kept(owner: Any, name: str) -> Iterator[list[tuple[tuple, Any]]]:
    """While it lasts, keep each call of a function of a module: its positional arguments, and what it returned."""
    function, calls = getattr(owner, name), []

    def watched(*arguments: Any, **more: Any) -> Any:
        calls.append((arguments, function(*arguments, **more)))
        return calls[-1][1]

    with swapped(owner, name, watched):
        yield calls


def _measured(off: Difference, seed: int) -> float:
    try:
        return off(seed)
    except Exception:  # of any kind: a system that cannot even be compared is as far off as can be
        return math.inf


def _plain(value: Any) -> Any:
    return value.detach().numpy() if hasattr(value, "detach") else value


def _what(mechanism: Mechanism) -> str:
    return f"{mechanism.what} → {mechanism.claim}"


def _claim(mechanism: Mechanism, off: float) -> Claim:
    return Claim(_what(mechanism), off, NOT_PRINTED, f"at most {EXACT:g}", bool(off <= EXACT), kind=MECHANISM)
