"""Streamlit's scripts and style sheets go out compressed: 3.5 MB of a first visit are 1.1 MB then.

Streamlit sends them as they are, since it would compress them again for every visitor. Here each is compressed when it
is first asked for, and kept. None depends on who asks, so their sizes tell nothing about anybody.
"""

import asyncio
import gzip
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEVEL = 6
COMPRESSED = (".js", ".css")  # fonts and pictures are compressed already


class CompressedScripts:
    """ASGI middleware: compresses the files of a folder that are served at `address`, for browsers that ask for it.

    Only the exact addresses of files that were there at the start count, so no visitor decides how much is kept.
    """

    def __init__(self, app: ASGIApp, folder: Path, address: str) -> None:
        self.app, self.kept = app, dict[str, bytes]()
        files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in COMPRESSED)
        self.known = {f"{address}/{file}" for file in files}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything else on as it is."""
        given = Headers(scope=scope) if scope["type"] == "http" and scope["method"] == "GET" else Headers()
        path = scope.get("path", "")
        if "gzip" not in given.get("accept-encoding", "") or "range" in given or path not in self.known:
            return await self.app(scope, receive, send)
        start: Message = {}
        parts: list[bytes] = []

        async def whole(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = b"".join(parts)
            headers = MutableHeaders(scope=start)
            headers.add_vary_header("Accept-Encoding")
            if start["status"] == 200:
                if path not in self.kept:
                    self.kept[path] = await asyncio.to_thread(gzip.compress, body, LEVEL, mtime=0)
                body = self.kept[path]
                headers.update({"Content-Encoding": "gzip", "Content-Length": str(len(body))})
            await send(start)
            await send({"type": "http.response.body", "body": body})

        return await self.app(scope, receive, whole)
