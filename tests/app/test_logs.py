"""The log of a public server: one JSON object per line, whatever a visitor sends, and none of his words."""

import json
import os
import subprocess
import sys

from house import ROOT

SENT = "\x1b[31mmine\u202e.txt"
PROGRAM = f"""
import logging, sys
from moeviz_app.server import asgi, logs
logs.write_lines()
print("BEGIN", file=sys.stderr)
from streamlit import error_util, logger
later = logger.get_logger("streamlit.made_later")
def fails():
    raise ValueError({SENT!r})
try:
    fails()
except ValueError as error:
    asgi._count_error(error)
    error_util._log_uncaught_app_exception(error)
try:
    fails()
except ValueError as error:
    error_util._log_uncaught_app_exception(error)
    asgi._count_error(error)
later.warning("The file %s is of another type", {SENT!r})
for _ in range(100):
    later.warning("again and again")
logs.time.monotonic = lambda: 10.0**9
for _ in range(2):
    logging.getLogger("moeviz.app").warning("one line")
    later.warning("again and again") if _ else None
"""


def lines_of(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"MOEVIZ_SERVE": "public"},
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    return done.stdout.decode().splitlines() + done.stderr.decode().partition("BEGIN\n")[2].splitlines()


def test_whatever_fails_is_one_line_of_json_with_kind_and_place_and_no_word_of_a_visitor():
    lines = lines_of(PROGRAM)
    found = [*map(json.loads, lines)]
    assert all(line.isascii() and "mine" not in line for line in lines)
    errors = [line for line in found if line.get("error") == "ValueError"]
    assert len(errors) == 2 and all("fails" in line["where"][-1] for line in errors), "each of the two, once"
    assert sum(line["message"] == "again and again" for line in found) <= 21, "of a hundred"
    assert any(line["message"] == "The file %s is of another type" for line in found)
