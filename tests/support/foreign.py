"""Calls of a model that are not of the forward which runs: by another thread, or by a hook of the user's own.

Deterministic: the foreign call is made from a hook of the model while it is recorded, and is over before the hook
returns.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from waiting import SECONDS


def elsewhere(act: Callable[[], object]) -> object:
    """What `act` gives in another thread, which is waited for; its error is raised here."""
    got, failed = [], []

    def run():
        try:
            with torch.no_grad():
                got.append(act())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), f"It had not ended after {SECONDS} s."
    if failed:
        raise failed[0]
    return got[0]


def here(act: Callable[[], object]) -> object:
    """What `act` gives in this thread."""
    with torch.no_grad():
        return act()


@contextmanager
def calling(part: torch.nn.Module, act: Callable[[], object], who=elsewhere, after=False, times=None) -> Iterator[list]:
    """Inside the block `act` is called whenever this thread calls `part`, or at its calls `times`; what it gave."""
    mine, calls, gave, busy = threading.get_ident(), [], [], []

    def hook(*_given):
        if threading.get_ident() != mine or busy:
            return
        calls.append(1)
        if times is None or len(calls) - 1 in times:
            busy.append(1)
            gave.append(who(act))
            busy.clear()

    handle = part.register_forward_hook(hook) if after else part.register_forward_pre_hook(hook)
    try:
        yield gave
    finally:
        handle.remove()
