"""Errors of a run as one sentence for whoever asked for it. No torch here."""

import logging

from moeviz.errors import MoevizError

log = logging.getLogger("moeviz.app")
ALLOCATORS_SAY = ("out of memory", "allocate memory", "not enough memory")  # torch's, on GPUs and on CPUs
NO_THREAD = "can't start new thread"


class RunFailed(MoevizError):
    """A run failed because of the model or the machine."""


def as_sentence(error: BaseException, when: str = "in this run") -> BaseException:
    """Return the error to raise to the visitor instead of what a run raised: a sentence, which holds no tensors.

    The log has the whole story. An error of moeviz is a sentence already, and what ends a program stays what it is.
    """
    if isinstance(error, MoevizError) or not isinstance(error, Exception):
        return error
    log.error("Something failed %s.", when, exc_info=error)
    says = str(error)
    if isinstance(error, MemoryError) or any(words in says for words in ALLOCATORS_SAY):
        return RunFailed(
            f"There was not enough memory {when}, so it ended, and what it held is free again. Try a shorter prompt, "
            "fewer tokens to generate, or a smaller model."
        )
    if NO_THREAD in says:
        return RunFailed(f"This server ran out of threads {when}, so it ended. Try again in a moment.")
    return RunFailed(
        f"The model failed {when} ({type(error).__name__}), and the server's log says why. Other runs are not "
        "affected; if it fails again, please report it."
    )
