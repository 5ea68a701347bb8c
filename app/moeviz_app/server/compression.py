"""Streamlit's scripts and style sheets go out compressed: 3.5 MB of a first visit are 1.0 MB then.

Streamlit sends them as they are, since it would compress them again for every visitor. Here each is compressed when it
is first asked for, and kept. None depends on who asks, so their sizes tell nothing about anybody.
"""

import asyncio
import gzip
from mimetypes import guess_type
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

COMPRESSED = (".js", ".css")  # fonts and pictures are compressed already
HEADERS = {  # how long, as Streamlit says: their names change with what is in them
    "Content-Encoding": "gzip",
    "Vary": "Accept-Encoding",
    "Cache-Control": "public, immutable, max-age=31536000",
}


class CompressedScripts:
    """ASGI middleware: compresses the files of a folder that are served at `address`, for browsers that ask for it.

    Only the exact addresses of files that were there at the start count, so no visitor decides how much is kept.
    """

    def __init__(self, app: ASGIApp, folder: Path, address: str) -> None:
        self.app, self.kept = app, dict[Path, bytes]()
        files = (file for file in folder.rglob("*") if file.suffix in COMPRESSED)
        self.known = {f"{address}/{file.relative_to(folder).as_posix()}": file for file in files}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything else on."""
        file = self.known.get(scope.get("path", "")) if scope.get("method") == "GET" else None
        if file is None or "gzip" not in Headers(scope=scope).get("accept-encoding", ""):
            return await self.app(scope, receive, send)
        if file not in self.kept:
            self.kept[file] = await asyncio.to_thread(lambda: gzip.compress(file.read_bytes(), 6))
        answer = Response(self.kept[file], headers=HEADERS, media_type=guess_type(file.name)[0])
        return await answer(scope, receive, send)
