"""The text of each token, as the server's own tokenizer decodes it."""

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from anyio import from_thread, to_thread

from moeviz.capture.engines.served.connection import NotThere
from moeviz.capture.run.token_texts import UNDECODABLE, token_texts
from moeviz.text import cut

log = logging.getLogger("moeviz.capture")
Ids = tuple[int, ...]
Decode = Callable[[list[Ids]], Coroutine[Any, Any, list[str]]]
LONGEST = 2000  # characters of a token
MOST_KNOWN = 2**18  # texts that are remembered, of a vocabulary
SPLIT = 4  # tokens that a character is usually split over, at most


class Texts:
    """The texts of sequences of token ids, remembered from run to run."""

    def __init__(self) -> None:
        self._known: dict[Ids, str] = {}

    async def of(self, ids: list[int], decode: Decode) -> list[str]:
        """The text of each token of a sequence; "" for all of them where the server decodes none."""
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
        """Ask for all of these at once, and for each of them twice in a row, which `token_texts` compares."""
        new = list(dict.fromkeys(ids for one in several for ids in (one, one + one) if ids not in self._known))
        if new:
            self._known.update(zip(new, map(text_of, await decode(new)), strict=True))


def text_of(said: Any) -> str:
    """Clean a server's text of a token, and cut it to a length that a token can have."""
    return cut(said, LONGEST).encode(errors="replace").decode() if isinstance(said, str) else ""


class _Tokenizer:
    """As much of a tokenizer as `token_texts` needs. Its methods run in a thread beside the event loop."""

    def __init__(self, known: dict[Ids, str], ask: Decode) -> None:
        self._known, self._ask = known, ask

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"token {one}" for one in ids]  # what the vocabulary calls them, the server does not say

    def decode(self, token_ids: list[int], **_how: Any) -> str:
        key = tuple(token_ids)
        if key not in self._known:
            [said] = from_thread.run(self._ask, [key])
            self._known[key] = text_of(said)
        return self._known[key]
