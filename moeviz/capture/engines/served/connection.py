"""Requests to a server over HTTP: answers are counted while they come, and every failure is one sentence.

A server is not trusted. Its answer may be endless, late, a redirect or missing; its messages are cut and shown as text.
The key is sent as a header, and is in no message. The text of each token is asked for too, as the server's own
tokenizer decodes it.
"""

import json
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from time import time
from typing import Any, TypeVar

import anyio
import httpx2
from anyio import from_thread, to_thread
from anyio.from_thread import start_blocking_portal

from moeviz.capture.engines.served.name import ServerName
from moeviz.capture.run.token_texts import UNDECODABLE, token_texts
from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.formats.importers.importer import Source
from moeviz.text import cut

KEYS = {"vllm": "VLLM_API_KEY", "sglang": "SGLANG_API_KEY"}  # after MOEVIZ_API_KEY
CONNECT_SECONDS = 10
SMALL, LARGE = 2**24, 2**28  # bytes of an answer: lists of models and tokens; routing of the longest contexts
LONGEST_ERROR = 2**16  # bytes of an answer that says what went wrong
TRIES, FIRST_PAUSE, LONGEST_PAUSE = 6, 0.5, 30.0
BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The longest wait for an answer of a server, and the largest answer that is read."""

    seconds: float = 600.0  # for one answer, from the question to its last byte, pauses included
    bytes: int = LARGE


class NotThere(CaptureError):
    """The server has no such route."""


class Server:
    """A connection to a server. Make one by `connected`."""

    def __init__(self, where: ServerName, limits: ConnectionLimits, http: httpx2.AsyncClient, key: str | None) -> None:
        self.where, self.limits, self._http, self._key = where, limits, http, key

    async def ask(self, path: str, body: dict[str, Any] | None = None, large: bool = False) -> dict[str, Any]:
        """Ask the server, and return its answer, a JSON object. With a body it is a POST, without one a GET.

        While the server is busy (429, 503) it is asked again, after the pause that it names. Raises `CaptureError`, and
        `InvalidPrompt` where the server refuses what was asked.
        """
        most = min(self.limits.bytes, LARGE if large else SMALL)
        with self._in_words():
            with anyio.fail_after(self.limits.seconds):
                status, data = await self._until_it_has_time(path, body, most)
        self._check(path, status, data)
        found = Source("the answer", {"the answer": data}, most * 4).first
        if not isinstance(found, dict):
            raise CaptureError(
                f"{self.where.url}{path} answered with something that is not JSON, or was cut. Ask again."
            )
        return found

    async def _until_it_has_time(self, path: str, body: Any, most: int) -> tuple[int, bytes]:
        for tried in range(TRIES):
            status, headers, data = await self._once(path, body, most)
            if status not in BUSY or tried == TRIES - 1:
                break
            await anyio.sleep(pause(headers.get("retry-after"), tried))
        return status, data

    async def _once(self, path: str, body: Any, most: int) -> tuple[int, httpx2.Headers, bytes]:
        """Ask one question, and count its answer as it comes."""
        method = "GET" if body is None else "POST"
        async with self._http.stream(method, self.where.url + path, json=body) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise CaptureError(
                    f"{self.where.url} compresses its answers although it was asked not to. Turn compression off."
                )
            data = bytearray()
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > most:
                    raise CaptureError(
                        f"The answer of {self.where.url}{path} is larger than {most:,} bytes, so it was not read. Send "
                        "a shorter prompt, or generate fewer tokens."
                    )
            return response.status_code, response.headers, bytes(data)

    def _check(self, path: str, status: int, data: bytes) -> None:
        """Raise `CaptureError` for any answer but a good one."""
        if status == 200:
            return
        url, words = self.where.url, self._words(data[:LONGEST_ERROR])
        if 300 <= status < 400:
            raise CaptureError(
                f"{url}{path} redirects (HTTP {status}), which moeviz does not follow. Name the server by its own "
                "address."
            )
        if status in (401, 403):
            says = "refuses the key" if self._key else "asks for a key"
            raise CaptureError(
                f"{url} {says} (HTTP {status}). Put the server's key into the environment variable MOEVIZ_API_KEY or "
                f"{KEYS[self.where.engine]}, and start again."
            )
        if status in (404, 405):
            raise NotThere(f"{url} has no {path} (HTTP {status}): {words} Is it a server of {self.where.engine}?")
        if status in (400, 413, 422):
            raise InvalidPrompt(f"{url} refuses what was asked (HTTP {status}): {words}")
        if status in BUSY:
            raise CaptureError(f"{url} is busy (HTTP {status}) and was asked {TRIES} times: {words} Try again later.")
        raise CaptureError(f"{url} failed at {path} (HTTP {status}): {words} Its log says more.")

    def _words(self, data: bytes) -> str:
        """Quote the server's own error message: one line, cut, without the key."""
        try:
            found = json.loads(data)
            for name in ("error", "message", "detail"):
                found = found.get(name, found) if isinstance(found, dict) else found
        except (ValueError, RecursionError):
            found = data[:2000].decode(errors="replace")
        text = " ".join(str(found)[:2000].split())
        text = text.replace(self._key, "…") if self._key else text
        line = cut("".join(c if c.isprintable() else "�" for c in text), 300)
        return f"“{line}”." if line else "it says nothing more."

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn any error of the connection into one sentence."""
        url = self.where.url
        try:
            yield
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise CaptureError(
                f"{url} did not answer in time: within {CONNECT_SECONDS} seconds to a connection, within "
                f"{self.limits.seconds:,.0f} seconds to a request. Is it overloaded? load_model(…, seconds=…) "
                "waits longer."
            ) from error
        except httpx2.ConnectError as error:
            raise CaptureError(f"No server answers at {url}: {_reason(error)} Is it running there?") from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise CaptureError(f"{url} is not the address of a server: {_reason(error)}") from error
        except (httpx2.HTTPError, httpx2.StreamError, anyio.BrokenResourceError, OSError) as error:
            raise CaptureError(
                f"The connection to {url} ended before the answer was whole ({type(error).__name__}). The server was "
                "stopped, or something in between gave up. Nothing of this run is kept; see that the server runs, and "
                "ask again."
            ) from error


@asynccontextmanager
async def connected(where: ServerName, limits: ConnectionLimits) -> AsyncIterator[Server]:
    """Connect to a server. Only the key is taken from the environment: no proxies, no other log-ins."""
    key = os.environ.get("MOEVIZ_API_KEY") or os.environ.get(KEYS[where.engine])
    headers = {"accept-encoding": "identity", "user-agent": "moeviz"}
    if key:
        if not (key.isascii() and key.isprintable()):
            raise CaptureError("The key in MOEVIZ_API_KEY is not a key: it has characters that a header cannot have.")
        headers["authorization"] = f"Bearer {key}"
    async with httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(limits.seconds, connect=CONNECT_SECONDS),
        verify=ssl.create_default_context() if where.url.startswith("https:") else False,
        follow_redirects=False,
        trust_env=False,
    ) as http:
        yield Server(where, limits, http, key)


def pause(retry_after: str | None, tried: int) -> float:
    """Return the seconds to wait before a busy server is asked again: as it says, with a limit; else longer each time.

    >>> pause("2", 0), pause(None, 0), pause(None, 2), pause("999999", 0), pause("soon", 0)
    (2.0, 0.5, 2.0, 30.0, 0.5)
    """
    wanted: float = FIRST_PAUSE * 2.0**tried
    if retry_after is not None:
        with suppress(ValueError, TypeError, OverflowError):
            is_date = not retry_after.strip().isdigit()
            wanted = parsedate_to_datetime(retry_after).timestamp() - time() if is_date else float(retry_after)
    return min(max(wanted, 0.0), LONGEST_PAUSE)


def _reason(error: Exception) -> str:
    words = cut("".join(c for c in str(error) if c.isprintable()), 200) or type(error).__name__
    return words if words.endswith(".") else f"{words}."


LOOK_UP_SECONDS = 0.1
T = TypeVar("T")


def poll(work: Callable[[], Awaitable[T]]) -> Generator[None, None, T]:
    """Run work in a thread of its own, yield now and then, and return its result.

    Closing the generator cancels the work, which closes its connection.
    """
    with start_blocking_portal() as portal:  # leaving it by an exception cancels what runs there
        future = portal.start_task_soon(work)
        while True:
            try:
                return future.result(LOOK_UP_SECONDS)
            except TimeoutError:
                if future.done():  # the work's own
                    raise
            yield


def run_blocking(work: Callable[[], Awaitable[T]]) -> T:
    """Run work for a server to its end, without a way to stop it, and return its result."""
    steps = poll(work)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


log = logging.getLogger("moeviz.capture")
Ids = tuple[int, ...]
Decode = Callable[[list[Ids]], Coroutine[Any, Any, list[str]]]
LONGEST = 2000  # characters of a token
MOST_KNOWN = 2**18  # texts that are remembered, of a vocabulary
SPLIT = 4  # tokens that a character is usually split over, at most


class DecodedTexts:
    """The texts of sequences of token ids, remembered from run to run."""

    def __init__(self) -> None:
        self._known: dict[Ids, str] = {}

    async def of(self, ids: list[int], decode: Decode) -> list[str]:
        """Return the text of each token of a sequence; "" for all of them if the server decodes none."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        try:
            await self._learn([(one,) for one in ids], decode)
            split = [at for at, one in enumerate(ids) if UNDECODABLE in self._known[one,]]
            await self._learn([tuple(ids[at : at + n]) for at in split for n in range(2, SPLIT + 1)], decode)
        except NotThere as error:
            log.warning("The texts of the tokens are not known. %s", error)
            return [""] * len(ids)
        return await to_thread.run_sync(partial(token_texts, _Tokenizer(self._known, decode), ids))

    async def _learn(self, several: list[Ids], decode: Decode) -> None:
        """Ask for all of these at once, and for each of them twice in a row, for `token_texts` to compare."""
        new = list(dict.fromkeys(ids for one in several for ids in (one, one + one) if ids not in self._known))
        if new:
            self._known.update(zip(new, map(text_of, await decode(new)), strict=True))


def text_of(answer: Any) -> str:
    """Clean a server's text of a token, and cut it to a length that a token can have."""
    return cut(answer, LONGEST).encode(errors="replace").decode() if isinstance(answer, str) else ""


class _Tokenizer:
    """The part of a tokenizer that `token_texts` needs. Its methods run in another thread than the event loop."""

    def __init__(self, known: dict[Ids, str], ask: Decode) -> None:
        self._known, self._ask = known, ask

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"token {one}" for one in ids]  # the server does not give their names

    def decode(self, token_ids: list[int], **_how: Any) -> str:
        key = tuple(token_ids)
        if key not in self._known:
            [text] = from_thread.run(self._ask, [key])
            self._known[key] = text_of(text)
        return self._known[key]
