"""Limits on what a browser's message holds, checked before Streamlit reads it.

Streamlit limits the bytes of a message alone. What a widget makes of its state may take far longer than reading it, or
fail: a table applies rows one by one, JSON may be nested without end, and a number need not be finite. So each field of
a message, of whatever kind, is held to limits of length, parts, depth and size, and so is a state that is JSON.
"""

import json
import math
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError, Message
from streamlit.proto.BackMsg_pb2 import BackMsg

LONGEST_TEXT = 10**6  # characters at least: a text that is too long for its page hears so there
LONGEST_QUERY = 64_000  # of an address; no server takes a longer one
MOST_PARTS = 50_000  # at least: widgets, rows, numbers and names of one message together
DEEPEST = 64  # lists in lists
LARGEST = 2**53  # of numbers: no browser counts exactly beyond it
JSON_FIELDS = ("json_value", "json_trigger_value")


class Forged(Exception):
    """A message that no page of ours sends, and why."""


def check_message(data: bytes | None, longest_text: int = LONGEST_TEXT, most_parts: int = MOST_PARTS) -> None:
    """Raise `Forged` for what is no message of Streamlit's, and for one that is beyond a limit."""
    if data is None:
        raise Forged("It is text.")
    try:
        message = BackMsg.FromString(data)
    except DecodeError:
        raise Forged("It cannot be read.") from None
    _Judge(longest_text, most_parts).check(message)


class _Judge:
    """Limits of one message, and how many parts are left of it."""

    def __init__(self, longest: int, parts: int) -> None:
        self.longest, self.left = longest, parts

    def check(self, message: Message) -> None:
        for field, value in message.ListFields():
            one = isinstance(value, str | bytes | float | int | Message)
            self._count(1 if one else len(value))
            for each in (value,) if one else value:
                if isinstance(each, Message):
                    self.check(each)
                elif isinstance(each, str | bytes):
                    self._check_text(field.name, each)
                else:
                    _check_number(each)

    def _check_text(self, name: str, text: str | bytes) -> None:
        if len(text) > (LONGEST_QUERY if name == "query_string" else self.longest):
            raise Forged(f"Its {name} is too long.")
        must_be_json = name in JSON_FIELDS
        if must_be_json or text.lstrip()[:1] in ("{", "["):
            try:
                value = json.loads(text)
            except RecursionError:
                raise Forged(f"Its {name} is nested too deeply.") from None
            except ValueError:  # a visitor may type what looks like JSON
                if must_be_json:
                    raise Forged(f"Its {name} is no JSON.") from None
            else:
                self._check_json([value])

    def _check_json(self, level: Iterable[Any]) -> None:
        for _ in range(DEEPEST):
            below: list[Any] = []
            for each in level:
                if isinstance(each, dict | list):
                    self._count(len(each))
                    below += each.values() if isinstance(each, dict) else each
                elif isinstance(each, float | int):
                    _check_number(each)
            if not below:
                return
            level = below
        raise Forged("Its JSON is nested too deeply.")

    def _count(self, parts: int) -> None:
        self.left -= parts
        if self.left < 0:
            raise Forged("It has too many parts.")


def _check_number(number: float) -> None:
    if not math.isfinite(number) or abs(number) > LARGEST:
        raise Forged("It has a number that is too large.")
