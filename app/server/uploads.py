"""Budgets for uploaded files: one for a tab, and one for all. Streamlit has one for a single file alone.

Streamlit keeps what a browser sends until the file is closed on the page or the tab is gone, read or not; so whoever
speaks its protocol could send one file after the other. This is judged before a byte of a file is read.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from moeviz_app.server.access import Refusal, header, refuse
from moeviz_app.settings import Settings
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.runtime import Runtime

ROUTE = "/_stcore/upload_file/"
MB = 2**20
FILES_A_TAB = 4  # of the largest allowed
SHARE = 4  # all tabs' files together may be so much of the memory for traces: one part in four


class Uploads:
    """ASGI middleware: refuses a file that would not fit beside those that are kept or on their way."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.largest = settings.max_upload_mb * MB
        self.a_tab = FILES_A_TAB * self.largest
        self.all = max(settings.process_mb * MB // SHARE, self.largest)
        self.on_their_way: dict[str, int] = {}  # bytes by tab

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge an upload, and hand on everything else."""
        if scope["type"] != "http" or scope["method"] != "PUT" or ROUTE not in scope["path"]:
            await self.app(scope, receive, send)
            return
        tab, announced = PurePosixPath(scope["path"]).parent.name, self._announced(scope)
        if (refused := self._judged(tab, announced)) is not None:
            await refuse(refused, scope, receive, send)
            return
        self.on_their_way[tab] = self.on_their_way.get(tab, 0) + announced
        try:
            await self.app(scope, receive, send)
        finally:
            self.on_their_way[tab] -= announced
            if not self.on_their_way[tab]:
                del self.on_their_way[tab]

    def _announced(self, scope: Scope) -> int:
        """How long the request says it is; without a word, as long as Streamlit lets it be."""
        said = header(scope, "content-length")
        return int(said) if said.isascii() and said.isdecimal() and len(said) < 16 else self.largest

    def _judged(self, tab: str, announced: int) -> Refusal | None:
        kept = kept_files()
        here = kept.get(tab, 0) + self.on_their_way.get(tab, 0)
        everywhere = sum(kept.values()) + sum(self.on_their_way.values())
        if announced > self.largest + MB:  # what is around the file counts too
            return Refusal("file", f"Files up to {self.largest // MB} MB are taken here.", 413)
        if here + announced > self.a_tab:
            return Refusal("file", "This tab has sent enough. Close files on the page, then send others.", 413)
        if everywhere + announced > self.all:
            return Refusal("file", "The server holds as many files as it may. Try again in a few minutes.", 503)
        return None


def kept_files() -> Mapping[str, int]:
    """The bytes that Streamlit keeps of each tab's files."""
    if not Runtime.exists():
        return {}
    files: Any = Runtime.instance().uploaded_file_mgr
    return {tab: sum(len(file.data) for file in list(kept.values())) for tab, kept in list(files.file_storage.items())}
