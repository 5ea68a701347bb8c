"""The log as JSON, one object a line, for whoever collects it; and moments for those who measure.

Of an error it says the kind and the places in the code, and not its words, which may quote a prompt.
"""

import json
import logging
import sys
import time
import traceback
from typing import Any

from moeviz_app import settings

USUAL = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        said: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {name: value for name, value in vars(record).items() if name not in USUAL}
        if record.exc_info and record.exc_info[1] is not None:
            said |= error_facts(record.exc_info[1])
        return json.dumps(said, ensure_ascii=False, default=str)


def error_facts(error: BaseException) -> dict[str, Any]:
    """Return an error's kind, and the places it came from, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__qualname__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def write_lines() -> None:
    """Let every logger that writes, ours, Streamlit's and uvicorn's, write such lines from now on."""
    logging.captureWarnings(True)
    logging.getLogger("moeviz").setLevel(logging.INFO)
    if not logging.root.handlers:
        logging.root.addHandler(logging.StreamHandler())
    loggers = [each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for logger in (logging.root, *loggers):
        for handler in logger.handlers:
            handler.setFormatter(JsonLines())


def log_moment(what: str) -> None:
    """With MOEVIZ_TIMING=1, tell stderr when something happened (seconds since 1970): benchmarks/app.py reads it."""
    if settings.SETTINGS.timing:
        sys.stderr.write(f"moeviz timing: {time.time():.6f} {what}\n")
        sys.stderr.flush()
