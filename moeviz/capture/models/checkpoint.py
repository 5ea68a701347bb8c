"""Checkpoints that lack weights or have too many, and the errors of their readers: each in one sentence."""

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig

from moeviz.errors import CaptureError, ModelNotFound
from moeviz.text import cut, quoted

NAMED, LONGEST_NAME, LONGEST_COMPLAINT = 3, 100, 300
SPEAKS_FOR_ITSELF = (OSError, ValueError, RuntimeError, ImportError, SafetensorError)  # its message is a sentence


@contextmanager
def explained(says: str, kind: type[CaptureError] = ModelNotFound) -> Iterator[None]:
    """Turn whatever transformers raises while it reads a stranger's files into `kind`; put nothing of ours inside.

    A damaged file can make it raise anything: KeyError, ZeroDivisionError, an Exception of the tokenizers. The message
    is `says` and the first line of the error. What transformers logs meanwhile (a report with the tensors' names as
    they are, tracebacks) is left out: we report what matters of it ourselves.
    """
    logger = logging.getLogger("transformers")
    for handler in logger.handlers:
        if _WHILE_READING not in handler.filters:
            handler.addFilter(_WHILE_READING)
    _WHILE_READING.calls += 1
    try:
        yield
    except Exception as error:
        raise kind(f"{says}: {_error_text(error)}") from error
    finally:
        _WHILE_READING.calls -= 1


class _WhileReading(logging.Filter):
    """Drop what transformers logs while a stranger's files are read."""

    calls = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether nothing is being read."""
        return not self.calls


_WHILE_READING = _WhileReading()


def check_weights(name: str, loading: dict[str, Any]) -> None:
    """Raise `ModelNotFound` if `loading`, transformers' report, lists weights that are missing or of another shape."""
    missing, mismatched = loading["missing_keys"], loading["mismatched_keys"]
    shapes = [f"{key} is {_shape(found)}, not {_shape(wanted)}" for key, found, wanted in mismatched]
    troubles = []
    if missing:
        troubles.append(f"lacks {_weights(missing)} of the model ({_list_names(missing)})")
    if shapes:
        troubles.append(f"has {_weights(shapes)} of another shape than its config says ({_list_names(shapes)})")
    if troubles:
        instead = "their place" if len(missing) + len(shapes) > 1 else "its place"
        raise ModelNotFound(
            f"The checkpoint {quoted(name)} {' and '.join(troubles)}, so the model would run on random numbers in "
            f"{instead}. Use the complete checkpoint, with the config.json that belongs to it."
        )


def caution_of(loading: dict[str, Any], config: PreTrainedConfig) -> str:
    """Return a sentence on weights that the checkpoint has and the model does not; "" without any of interest."""
    left_out = [key for key in loading["unexpected_keys"] if not _predicts_further(key, config)]
    if not left_out:
        return ""
    return f"The checkpoint holds {_weights(left_out)} for which this model has no place: {_list_names(left_out)}."


def _predicts_further(key: str, config: PreTrainedConfig) -> bool:
    """Return True for a weight of the layers for multi-token prediction, which DeepSeek and others number last."""
    text = config.get_text_config()
    first: int | None = getattr(text, "num_hidden_layers", None)
    further: int = getattr(text, "num_nextn_predict_layers", None) or 0
    found = re.search(r"(?:^|\.)layers\.(\d+)\.", key)
    return first is not None and found is not None and first <= int(found[1]) < first + further


def _weights(of: Collection[str]) -> str:
    return f"{len(of):,} weight{'s' * (len(of) > 1)}"


def _shape(sizes: Collection[int]) -> str:
    return " x ".join(map(str, sizes)) or "a number"


def _list_names(names: Collection[str]) -> str:
    first = ", ".join(_line(name, LONGEST_NAME) for name in sorted(names)[:NAMED])
    return first + (f" … and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _error_text(error: Exception) -> str:
    """Return an error's first line, or all of it if the first only announces the rest, as the end of a sentence."""
    if parts := _unjoined_weights(error):
        return f"some of the weights that {_list_names(parts)} is made of are missing, or of another shape."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = _line(" ".join(lines) if lines[0].endswith(":") else lines[0], LONGEST_COMPLAINT)
    if not isinstance(error, SPEAKS_FOR_ITSELF) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _unjoined_weights(error: Exception) -> list[str]:
    """List the weights that transformers could not join from those of the checkpoint; only its log names them."""
    reports = (frame.f_locals.get("loading_info") for frame, _ in walk_tb(error.__traceback__))
    return [key for report in reports for key in getattr(report, "conversion_errors", ())][:NAMED]


def _line(text: str, most: int) -> str:
    """Put a stranger's text on one line, cut, with control characters spelled out."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in cut(text, most))
