"""Every acceptance figure of the gallery, system by system."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context

import pandas as pd

from moeviz.errors import MoevizError
from moeviz.history.checks.claims import NOT_PRINTED, Claim, frame_of
from moeviz.history.systems import SYSTEMS

# What is checked without being trained here, beside the systems.
MODULES = {name: system.module for name, system in SYSTEMS.items()} | {"mixtral": "mixtral", "counts": "counts"}
AT_ONCE = 2  # systems; each is trained on one thread, so that the figures do not depend on how many there are


def checked(names: Sequence[str] = (), quick: bool = False) -> Iterator[pd.DataFrame]:
    """The claims of these systems, or of all, in that order, each as soon as it is there.

    Systems are trained in processes of their own, two at a time. One row per claim. Columns: system str · what str ·
    ours, paper float64 (paper is NaN where it gives none that holds for our data) · tolerance str · passed bool ·
    remark str. Raises `MoevizError` for a system that there is not.
    """
    if unknown := set(names) - set(MODULES):
        raise MoevizError(f"There is nothing to check by the name {min(unknown)!r}; there are {', '.join(MODULES)}.")
    wanted = [name for name in MODULES if name in names or not names]
    with ProcessPoolExecutor(AT_ONCE, get_context("spawn"), _one_thread) as pool:
        running = {name: pool.submit(claims_of, name, quick) for name in wanted}
        try:
            for name in wanted:
                yield running[name].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def claims_of(name: str, quick: bool = False) -> pd.DataFrame:
    """The claims of one system. Columns as in `checked`."""
    module = import_module(f"moeviz.history.checks.{MODULES[name]}")
    try:
        claims = module.claims(quick)
    except MoevizError as error:  # a library that is not there
        claims = [Claim("could not be checked", NOT_PRINTED, NOT_PRINTED, "", False, str(error))]
    frame = frame_of(claims)
    frame.insert(0, "system", pd.Series([name] * len(frame), dtype="str"))
    return frame


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
