"""The log as JSON, one object per line, for log collectors.

An error is logged with its kind and the places in the code, without its words, which may quote a prompt; a library's
message, without the values filled in. Whatever a visitor sends is ASCII here, and the lines per minute from one
place are limited: the next one has the number of those left out.
"""

import json
import logging
import time
import traceback
from typing import Any

from streamlit import config
from streamlit import logger as streamlit_logger

OURS, LONGEST = ("moeviz", "moeviz_app"), 200  # loggers that hold no word of a visitor; characters of others' sentences
MOST_A_MINUTE = 20  # lines of one place
USUAL = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        said: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() if record.name.partition(".")[0] in OURS else str(record.msg)[:LONGEST],
        }
        said |= {name: value for name, value in vars(record).items() if name not in USUAL}
        if record.exc_info and record.exc_info[1] is not None:
            said |= error_facts(record.exc_info[1])
        return json.dumps(said, default=str)


class Seldom(logging.Filter):
    """Limits the records of one place per minute, and lets each error through once."""

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[tuple[str, int, str], tuple[float, int]] = {}  # by place and kind: the minute, and records in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not is_new(error):
            return False
        place, minute = (record.pathname, record.lineno, type(error).__name__), time.monotonic() // 60
        began, number = self._of.get(place, (minute, 0))
        if began != minute and number > MOST_A_MINUTE:
            record.left_out = number - MOST_A_MINUTE
        self._of[place] = minute, number + 1 if began == minute else 1
        return self._of[place][1] <= MOST_A_MINUTE


def is_new(error: BaseException) -> bool:
    """Return whether an error is seen here for the first time: Streamlit logs it, and reports it to us too."""
    new = not getattr(error, "moeviz_logged", False)
    error.moeviz_logged = True  # type: ignore[attr-defined]
    return new


def error_facts(error: BaseException) -> dict[str, Any]:
    """Return an error's kind, and the places it came from, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__qualname__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def write_lines() -> None:
    """Let every logger that writes, ours, Streamlit's and uvicorn's, write such lines, later ones too."""
    usual = streamlit_logger.setup_formatter

    def set_up(logger: Any) -> None:
        usual(logger)
        _as_lines(logger)

    streamlit_logger.setup_formatter = set_up
    config.set_option("logger.enableRich", False)  # which prints an error's words and source code in colours
    logging.captureWarnings(True)
    logging.getLogger("moeviz").setLevel(logging.INFO)
    if not logging.root.handlers:
        logging.root.addHandler(logging.StreamHandler())
    loggers = [each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    for logger in (logging.root, *loggers):
        _as_lines(logger)


def _as_lines(logger: logging.Logger) -> None:
    for handler in logger.handlers:
        handler.setFormatter(JsonLines())
        handler.addFilter(SELDOM)  # which is there once, however often it is added


SELDOM = Seldom()
