"""Budgets for uploaded files: for a tab, for an address, and for all. Streamlit has one only for a single file.

Streamlit keeps what a browser sends until the file is closed on the page or the tab is gone, read or not; so whoever
speaks its protocol could send one file after the other. A file is judged before a byte of it is read, and again with
each part: what counts is what has come, so nobody takes up room by what is only announced.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.runtime import Runtime

from moeviz_app.server.access import Refusal, header, refuse
from moeviz_app.server.client_address import network_behind
from moeviz_app.settings import Settings

ROUTE = "/_stcore/upload_file/"
MB = 2**20
FILES_A_TAB = 4  # of the largest allowed
SHARE = 4  # all tabs' files together may have one part in four of the memory for traces
SHARE_OF_ADDRESS = 2  # and those of one address one part in two of that
SECONDS_TO_BEGIN = 20.0
LEAST_RATE = 16 * 2**10  # bytes per second from then on, on average: a slow telephone's
SLOW = Refusal("file", "The file came too slowly. Send it again, or send a smaller one.", 408)


class _Stopped(Exception):
    """An upload that is read no further, and why."""

    def __init__(self, why: Refusal) -> None:
        super().__init__(why.sentence)
        self.why = why


class Uploads:
    """ASGI middleware: refuses a file that would not fit with those that are kept or on their way, or that stalls."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.proxies = app, settings.trusted_proxies
        self.largest = settings.max_upload_mb * MB
        self.a_tab = FILES_A_TAB * self.largest
        self.all = max(settings.process_mb * MB // SHARE, self.largest)
        self.an_address = max(self.all // SHARE_OF_ADDRESS, self.largest)
        self.on_their_way: Counter[str] = Counter()  # bytes that have come, by tab
        self.addresses: dict[str, str] = {}  # of tabs that have sent a file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge an upload, and hand on everything else."""
        if scope["type"] != "http" or scope["method"] != "PUT" or ROUTE not in scope["path"]:
            await self.app(scope, receive, send)
            return
        tab = PurePosixPath(scope["path"]).parent.name
        self.addresses[tab] = network_behind(scope, self.proxies)
        length = header(scope, "content-length")  # without it, as long as Streamlit lets it be
        is_number = length.isascii() and length.isdecimal() and len(length) < 16
        if (refused := self._check_budget(tab, int(length) if is_number else self.largest)) is not None:
            await refuse(refused, scope, receive, send)
            return
        came, began = 0, asyncio.get_running_loop().time()

        async def counted() -> Message:
            nonlocal came
            try:
                async with asyncio.timeout_at(began + SECONDS_TO_BEGIN + came / LEAST_RATE):
                    message = await receive()
            except TimeoutError:
                raise _Stopped(SLOW) from None
            size = len(message.get("body", b""))
            came += size
            self.on_their_way[tab] += size
            if (refused := self._check_budget(tab, 0)) is not None:
                raise _Stopped(refused)
            return message

        try:
            await self.app(scope, counted, send)
        except _Stopped as stopped:
            await refuse(stopped.why, scope, receive, send)
        except ClientDisconnect:
            pass  # the visitor has left
        finally:
            self.on_their_way[tab] -= came
            self.on_their_way += Counter()  # which drops those at zero

    def _check_budget(self, tab: str, more: int) -> Refusal | None:
        held = self.on_their_way + Counter(kept_files())
        self.addresses = {each: self.addresses[each] for each in self.addresses.keys() & {tab, *held}}
        here = self.addresses[tab]
        of_address = sum(held[each] for each, address in self.addresses.items() if address == here)
        if more > self.largest + MB:  # what is around the file counts too
            return Refusal("file", f"Files up to {self.largest // MB} MB are taken here.", 413)
        if held[tab] + more > self.a_tab:
            return Refusal("file", "This tab has sent enough. Close files on the page, then send others.", 413)
        if of_address + more > self.an_address:
            return Refusal("file", "The server holds as many files of your network as it may. Try again later.", 503)
        if held.total() + more > self.all:
            return Refusal("file", "The server holds as many files as it may. Try again in a few minutes.", 503)
        return None


def kept_files() -> Mapping[str, int]:
    """Return the bytes that Streamlit keeps of each tab's files."""
    if not Runtime.exists():
        return {}
    files: Any = Runtime.instance().uploaded_file_mgr
    return {tab: sum(len(file.data) for file in list(kept.values())) for tab, kept in list(files.file_storage.items())}
