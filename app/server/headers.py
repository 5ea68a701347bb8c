"""Security headers of every response: whose scripts may run on the page, and who may show it in a frame.

The policy is as strict as Streamlit lets it be. It does not forbid:

* styles written into the page (`'unsafe-inline'` for styles), since Streamlit's own are;
* scripts from `blob:`, since Streamlit hands a component's own script to the browser that way.

No host but ours is in it, and no `eval`.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Headers:
    """ASGI middleware: sends the same headers with every response."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self.app, self.headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and add the headers in place of any of the same name."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def security_headers(ancestors: Sequence[str], page: Path) -> dict[str, str]:
    """Return the security headers. `ancestors` may show the app in a frame; `page` is Streamlit's index.html."""
    headers = {
        "Content-Security-Policy": policy(ancestors, page.read_text(encoding="utf-8")),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",  # an address may hold a prompt
        "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return headers if ancestors else headers | {"X-Frame-Options": "DENY"}


def policy(ancestors: Sequence[str], page: str) -> str:
    """The content security policy of a page; the scripts that stand in it are known by their hashes."""
    hashes = [f"'sha256-{_hash(script)}'" for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)]
    rules = {
        "default-src": ["'none'"],
        "script-src": ["'self'", "blob:", *hashes],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "media-src": ["'self'"],
        "manifest-src": ["'self'"],
        "worker-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
        "frame-src": ["'none'"],
        "frame-ancestors": list(ancestors) or ["'none'"],
    }
    return "; ".join(f"{name} {' '.join(values)}" for name, values in rules.items())


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
