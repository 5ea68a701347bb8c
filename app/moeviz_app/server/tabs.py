"""Limits on tabs: how many a browser and an address may have connected, and what they may send.

A tab is a web socket. Every browser speaks at once: a socket that says nothing is closed after some seconds, and before
that where its place is needed, so that nobody is shut out by sockets that are only held open.

Streamlit limits only the bytes of a message. What a widget makes of its state may take far longer than reading it, or
fail: a table applies rows one by one, JSON may be nested without end, and a number need not be finite. So each field of
a message, of whatever kind, is held to limits of length, parts, depth and size, and so is a state that is JSON.
"""

import asyncio
import json
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from google.protobuf import message as protobuf
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg

from moeviz_app.server import metrics
from moeviz_app.server.access import Refusal, note, refuse
from moeviz_app.server.identity import Visitor, visitor_of
from moeviz_app.settings import Settings

LONGEST_TEXT = 10**6  # characters at least: a text that is too long for its page is refused there
LONGEST_QUERY = 64_000  # of an address; no server takes a longer one
MOST_PARTS = 50_000  # at least: widgets, rows, numbers and names of one message together
DEEPEST = 64  # lists in lists
LARGEST = 2**53  # of numbers: no browser counts exactly beyond it
JSON_FIELDS = ("json_value", "json_trigger_value")


class Forged(Exception):
    """A message that no page of ours sends, and why."""


def check_message(data: bytes | None, longest_text: int = LONGEST_TEXT, most_parts: int = MOST_PARTS) -> None:
    """Raise `Forged` for anything but a message of Streamlit's, and for one that is beyond a limit."""
    if data is None:
        raise Forged("It is text.")
    try:
        message = BackMsg.FromString(data)
    except protobuf.DecodeError:
        raise Forged("It cannot be read.") from None
    _Judge(longest_text, most_parts).check(message)


class _Judge:
    """Limits of one message, and how many parts are left of it."""

    def __init__(self, longest: int, parts: int) -> None:
        self.longest, self.left = longest, parts

    def check(self, message: protobuf.Message) -> None:
        for field, value in message.ListFields():
            one = isinstance(value, str | bytes | float | int | protobuf.Message)
            self._count(1 if one else len(value))
            for each in (value,) if one else value:
                if isinstance(each, protobuf.Message):
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


SECONDS_TO_SPEAK = 20.0
POLICY = 1008  # the code of a web socket that broke a rule
SILENT = Refusal("silent", "This tab said nothing.")
MOST_OF_ALL = Refusal("full", "As many tabs are open as this server serves. Try again later.")
MOST_OF_ADDRESS = Refusal("address", "Your network has as many tabs open here as it may have. Close some.")
MOST_OF_VISITOR = Refusal("visitor", "You have as many tabs open here as you may have. Close some.")


@dataclass(eq=False, slots=True)
class OpenTab:
    """A web socket: whose it is, whether it has spoken, and why it ends, where that is our wish."""

    visitor: Visitor
    spoke: bool = False
    over: Refusal | None = None
    patience: asyncio.Timeout | None = None  # while it is waited for


class Tabs:
    """ASGI middleware: counts web sockets, and ends those that are silent or send what no page sends."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.open: list[OpenTab] = []  # the oldest first
        self.longest = max(LONGEST_TEXT, 4 * settings.max_corpus_chars)
        self.most_parts = max(MOST_PARTS, settings.max_corpus_chars)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a web socket and its messages; hand on everything else."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        tab = OpenTab(visitor_of(scope))
        if (refused := self._why_refused(tab.visitor)) is not None:
            await refuse(refused, scope, receive, send)
            return

        async def heard() -> Message:
            return await self._receive(tab, receive)

        self.open.append(tab)
        try:
            await self.app(scope, heard, send)
        finally:
            self._forget(tab)
            metrics.count("sessions", -tab.spoke)
        if tab.over is not None:
            note(tab.over, scope)
            await send({"type": "websocket.close", "code": POLICY, "reason": tab.over.sentence})

    def _why_refused(self, visitor: Visitor) -> Refusal | None:
        """Return why a tab is refused. Tabs that have sent nothing are closed first."""
        settings, mine, here = self.settings, visitor.id, visitor.address
        shared = max(settings.sessions_per_visitor, settings.sessions_per_address // 2)
        of_visitor = settings.sessions_per_visitor if visitor.is_browser else shared
        limits = (
            (MOST_OF_VISITOR, of_visitor, [tab for tab in self.open if tab.visitor.id == mine]),
            (MOST_OF_ADDRESS, settings.sessions_per_address, [tab for tab in self.open if tab.visitor.address == here]),
            (MOST_OF_ALL, settings.max_sessions, self.open),
        )
        for refused, most, tabs in limits:
            silent = [tab for tab in tabs if not tab.spoke]
            if len(tabs) >= most and not silent:
                return refused
            if len(tabs) >= most:
                self._end(silent[0], SILENT)
        return None

    async def _receive(self, tab: OpenTab, receive: Receive) -> Message:
        """Wait for a tab's next message: for the first one, a limited time. An ended tab is gone for the app."""
        try:
            if tab.spoke:
                message = await receive()
            elif tab.over is None:
                async with asyncio.timeout(SECONDS_TO_SPEAK) as tab.patience:
                    message = await receive()
        except TimeoutError:
            self._end(tab, SILENT)
        if tab.over is None and message["type"] == "websocket.receive":
            try:
                check_message(message.get("bytes"), self.longest, self.most_parts)
            except Forged as forged:
                self._end(tab, Refusal("message", f"No page sends this message. {forged}"))
            else:
                metrics.count("sessions", not tab.spoke)
                tab.spoke = True
        return message if tab.over is None else {"type": "websocket.disconnect", "code": POLICY}

    def _end(self, tab: OpenTab, why: Refusal) -> None:
        tab.over = tab.over or why
        self._forget(tab)
        if tab.patience is not None:
            with suppress(RuntimeError):  # it waits no longer
                tab.patience.reschedule(asyncio.get_running_loop().time())

    def _forget(self, tab: OpenTab) -> None:
        if tab in self.open:
            self.open.remove(tab)
