"""Claims of the papers, checked on our systems one after another, each in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pandas as pd

from history_checks.claims import NOT_PRINTED, Claim, frame_of
from history_checks.mechanisms import Mechanism, claims_about, controls_for
from history_checks.negative_controls import Control, controlled
from moeviz.errors import MoevizError
from moeviz.history.systems import FOLDERS
from moeviz.text import quoted

WITH_CHECKS = FOLDERS | {
    "counts": "timeline",
    "phone-book": "phone_book",
    "sentences": "sentences",
}  # by name, the file beside this one
AT_ONCE = 2  # systems; each is trained on one thread, so that the figures do not depend on how many there are


def check_claims(
    names: Sequence[str] = (), quick: bool = False, seed: int = 0, controls: bool = False
) -> Iterator[pd.DataFrame]:
    """Check the claims of these systems, or of all; yield each system's table as soon as it is ready.

    Systems are trained in separate processes, two at a time, from seed 100 · `seed` on. With `controls`, each check is
    measured again with its mechanism broken, where it must miss.

    One row per claim. Columns: system str · what str · ours, paper float64 (NaN if the paper gives no number that holds
    for our data) · tolerance str · passed bool · remark str · kind str (measured, mechanism, identity, of what ships,
    misprint found: only the first two are checks). With `controls` also: control str (what was broken) · broken float64
    (the figure then) · caught bool (whether the claim missed then; True of what is no check).

    A system that fails, or whose process ends without an answer, has one row, which does not pass and says why.

    Raises `MoevizError` for an unknown system.
    """
    if unknown := set(names) - set(WITH_CHECKS):
        raise MoevizError(
            f"There is nothing to check by the name {quoted(min(unknown))}. Choose from {', '.join(WITH_CHECKS)}."
        )
    wanted = [name for name in WITH_CHECKS if name in names or not names]
    options = [*(["--quick"] if quick else []), *(["--controls"] if controls else []), "--seed", str(seed)]
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(lambda name: _in_a_process(name, options), wanted)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def claims_of(name: str, quick: bool = False, seed: int = 0, controls: bool = False) -> pd.DataFrame:
    """Check the claims of one system in this process. Columns as in `check_claims`."""
    module = import_module(f"history_checks.{WITH_CHECKS[name]}")
    try:
        claims = [*module.claims(quick, seed), *claims_about(mechanisms_of(name), seed)]
        again = (
            controlled(claims, controls_of(name), quick, seed) if controls else pd.DataFrame(index=range(len(claims)))
        )
    except Exception as error:  # of any kind: one system that fails must not hide what the others show
        return _not_checked(name, str(error) if isinstance(error, MoevizError) else repr(error), controls)
    return _of_system(name, pd.concat([frame_of(claims), again], axis=1))


def controls_of(name: str) -> tuple[Control, ...]:
    """The negative controls of one system's claims, those of its mechanisms last."""
    return (*import_module(f"history_checks.{WITH_CHECKS[name]}").CONTROLS, *controls_for(mechanisms_of(name)))


def mechanisms_of(name: str) -> tuple[Mechanism, ...]:
    """The mechanisms of one system; none where nothing is trained."""
    return getattr(import_module(f"history_checks.{WITH_CHECKS[name]}"), "MECHANISMS", ())


def _in_a_process(name: str, options: list[str]) -> pd.DataFrame:
    command = [sys.executable, str(Path(__file__).parent), name, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "it printed nothing").splitlines()[-1]
        why = f"its process ended without an answer ({last}); run python {' '.join(command[1:])} to see why"
        return _not_checked(name, why, "--controls" in options)
    return pd.DataFrame(json.loads(done.stdout))


def _not_checked(name: str, why: str, controls: bool) -> pd.DataFrame:
    claims = [Claim("could not be checked", NOT_PRINTED, NOT_PRINTED, "", False, why)]
    again = controlled(claims, (), True, 0) if controls else pd.DataFrame(index=[0])
    return _of_system(name, pd.concat([frame_of(claims), again], axis=1))


def _of_system(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    frame.insert(0, "system", pd.Series([name] * len(frame), dtype="str"))
    return frame
