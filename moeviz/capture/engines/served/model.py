"""A model that a server runs, used wherever a model is: what vLLM and SGLang have in common.

A server sends the routing of a request when the request is done, and not before: a run is one answer for each prompt,
and until it comes nothing is known of it. Nothing is held between runs: each has a connection of its own, so several
threads may run at once, which is what servers are made for.
"""

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from moeviz.capture.engines.engine import BeforeOpening, EngineModel, SoFar
from moeviz.capture.engines.served.answer import (
    NOT_CHECKED,
    ServedAnswer,
    caution_about_text,
    caution_about_zeros,
    check_model,
    check_part,
    check_tokens,
    config_facts,
    info_of,
    why_ended,
)
from moeviz.capture.engines.served.connection import (
    ConnectionLimits,
    DecodedTexts,
    Ids,
    NotThere,
    Server,
    connected,
    poll,
    run_blocking,
)
from moeviz.capture.engines.served.name import ServerName
from moeviz.capture.run.decoding import Decoding, Sampling
from moeviz.capture.run.generation_plan import decoding_words, ended_words
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.importers.build_trace import SourceInfo, build_trace, choices
from moeviz.formats.importers.importer import DAMAGED
from moeviz.metrics.doctor import examine
from moeviz.routing_trace import RoutingTrace
from moeviz.text import cautions_in_one, quoted, with_and

log = logging.getLogger("moeviz.capture")
T = TypeVar("T")
LARGEST_ID = 2**31 - 1
FIRST_WORDS = "Hello"  # what is asked when a server is opened, to see whether it says where tokens go
FIRST = CaptureRequest((FIRST_WORDS,), keep_logits=False)


class ModelOnServer(EngineModel):
    """A model on a server, opened by `open_model` of the engine's module."""

    def __init__(self, where: ServerName, limits: ConnectionLimits) -> None:
        self.where, self._limits, self._texts = where, limits, DecodedTexts()
        self.told, self.served = replace(where.told, start=None), ""
        self._max_tokens: int | None = None
        self._chats = False
        run_blocking(self._with(self._open))

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit into the context, as the server says."""
        return self._max_tokens

    @property
    def chats(self) -> bool:
        """True if the server took a chat when it was opened."""
        return self._chats

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` as a prompt, by the server's own tokenizer."""
        return len(run_blocking(self._with(lambda server: self.tokenize(server, text))))

    def run(self, request: CaptureRequest) -> Generator[SoFar | None, None, None]:
        """Yield one answer for each prompt; then the trace. None now and then, while an answer is awaited."""
        answers = []
        for prompt in request.prompts:
            if not isinstance(prompt, str):
                raise CaptureError(f"{self.name} is asked for one turn at a time. Send a text, or load the checkpoint.")
            answers.append((yield from poll(self._with(partial(self._answer, request=request, prompt=prompt)))))
        trace = self._trace(answers, request)
        yield lambda: trace

    def close(self) -> None:
        """Nothing: no connection outlives its run."""

    # Different for each engine:

    @abstractmethod
    async def what_runs(self, server: Server) -> tuple[str | None, str]:
        """Ask which model the server runs, and how the server names itself."""

    @abstractmethod
    async def complete(self, server: Server, prompt: str, request: CaptureRequest) -> ServedAnswer:
        """Ask for one prompt, and read what comes back. Its part has token ids, but no texts."""

    @abstractmethod
    async def detokenize(self, server: Server, several: list[Ids]) -> list[str]:
        """Ask for the text of each of these sequences of token ids."""

    # Shared by both engines:

    async def tokenize(self, server: Server, text: str) -> list[int]:
        """Return the token ids of a prompt, by /tokenize."""
        return ids_in((await server.ask("/tokenize", {"model": self.served, "prompt": text})).get("tokens"))

    def _with(self, work: Callable[[Server], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """Give a piece of work a connection of its own."""

        async def connect() -> T:
            async with connected(self.where, self._limits) as server:
                return await work(server)

        return connect

    async def _open(self, server: Server) -> None:
        """Choose the model, and ask it for a first answer: does the server say where tokens go, and in which shape?"""
        await self._choose(server)
        runs, by = await self.what_runs(server)
        facts = config_facts(self.where, runs)
        if facts is not None:
            self.told = replace(self.told, hidden_layers=facts.num_layers, top_k=facts.top_k)
        part = (await self._read(server, FIRST_WORDS, FIRST)).part
        self.info = info_of(self.where, facts, part, runs, by)
        self._chats = await self._takes_chats(server)
        experts = max(self.info.num_experts)
        self.told = replace(self.told, moe_layers=self.info.layers, experts=experts, start=self.where.told.start)

    async def _choose(self, server: Server) -> None:
        """Choose one of the server's models. Raises `CaptureError` if the choice is not clear."""
        listed = (await server.ask("/v1/models")).get("data")
        cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
        ids = [card["id"] for card in cards if isinstance(card.get("id"), str)]
        if (wanted := self.where.model or (ids[0] if len(ids) == 1 else None)) not in ids:
            has = ", ".join(quoted(name, 80) for name in ids[:10]) or "none that it lists"
            ask = f"no model {quoted(wanted)}" if wanted else f"{len(ids)} models"
            raise CaptureError(
                f"{self.where.url} has {ask}: it has {has}. Name one behind a “#”: "
                f"{self.where.engine}+{self.where.url}#…"
            )
        self.card = cards[[card.get("id") for card in cards].index(wanted)]
        self.served = str(wanted)
        root, named = self.card.get("root"), [self.served]
        if isinstance(root, str):  # which the server may call by any of its names
            named += [root, *(card["id"] for card in cards if card.get("root") == root and card.get("id") in ids)]
        self.names = named
        length = self.card.get("max_model_len")
        self._max_tokens = length if isinstance(length, int) and 0 < length < LARGEST_ID else None

    async def _takes_chats(self, server: Server) -> bool:
        try:
            await self._read(server, FIRST_WORDS, replace(FIRST, chat=True))
        except CaptureError:
            return False
        return True

    async def _answer(self, server: Server, request: CaptureRequest, prompt: str) -> ServedAnswer:
        """Return the answer to one prompt, compared with the prompt, with the texts of its tokens."""
        answer = await self._read(server, prompt, request)
        part = answer.part
        check_part(self.info, part)
        new = 0 if part.generated is None else int(part.generated.sum())
        if new >= max(request.max_new_tokens, 1):
            raise CaptureError(f"{self.name} generated more than the {request.max_new_tokens:,} tokens asked for.")
        caution = "" if answer.prompt is None else await self._compare(server, ids_in(answer.prompt), prompt, request)
        assert part.token_id is not None  # `_read` sees to it
        texts = await self._texts.of(part.token_id.tolist(), partial(self.detokenize, server))
        return replace(answer, part=replace(part, text=texts), caution=caution)

    async def _compare(self, server: Server, read: list[int], prompt: str, request: CaptureRequest) -> str:
        """Return the caution for tokens that may not be those of the prompt. Raises `CaptureError` if they are not.

        Nobody else knows what a server's template makes of a chat: for chats the prompt's text is searched.
        """
        if not request.chat:
            with suppress(NotThere):
                check_tokens(read, await self.tokenize(server, prompt), self.where.url)
                return ""
        try:
            [text] = await self.detokenize(server, [tuple(read)])
        except NotThere:
            return NOT_CHECKED
        return caution_about_text(str(text), prompt, len(read))

    async def _read(self, server: Server, prompt: str, request: CaptureRequest) -> ServedAnswer:
        """Read the answer to a prompt as a file would be read. Raises `CaptureError` if it is not routing."""
        try:
            answer = await self.complete(server, prompt, request)
            part = answer.part
            if part.token_id is None:
                raise CaptureError(
                    f"{self.where.url} does not say which tokens its routing is of. moeviz needs vLLM 0.21 or newer, "
                    "or SGLang 0.5.13 or newer."
                )
            tokens = np.asarray(part.token_id)
            if tokens.dtype.kind not in "iu" or ((tokens < 0) | (tokens > LARGEST_ID)).any():
                raise InvalidTrace("A token id is negative, or larger than any vocabulary.")
        except (InvalidTrace, *DAMAGED) as error:
            if isinstance(error, OSError):
                raise
            says = str(error) if isinstance(error, InvalidTrace) else f"{type(error).__name__}: {str(error)[:100]!r}."
            raise CaptureError(f"The answer of {self.where.url} is not the routing of this prompt: {says}") from error
        check_model(answer, self.names, self.where.url)
        return answer

    def _trace(self, answers: Sequence[ServedAnswer], request: CaptureRequest) -> RoutingTrace:
        """Make the trace of all prompts, with a caution for odd answers; log that and the doctor's findings."""
        about, parts = SourceInfo(self.where.engine, hidden=True, what="answer"), [answer.part for answer in answers]
        chosen = [part.ids[list(self.info.layers)] for part in parts]
        odd = cautions_in_one([*(answer.caution for answer in answers), caution_about_zeros(chosen)])
        try:
            made = build_trace(parts, about, self.name, self.told)
            info = replace(
                self.info,
                decoding=_decoding(answers, request) if request.max_new_tokens else "",
                caution=cautions_in_one([self.info.caution, odd]),
            )
            trace = replace(made, model=info)
        except InvalidTrace as error:
            raise CaptureError(f"{self.where.url} answered with something that is not routing: {error}") from error
        for sentence in filter(None, [odd, *examine(trace)["says"]]):
            log.warning("%s", sentence)
        return trace


def _decoding(answers: Sequence[ServedAnswer], request: CaptureRequest) -> str:
    """Say how tokens were generated, and which answers have fewer than requested."""
    ended = [answer for answer in answers if answer.new < request.max_new_tokens]
    why = with_and([*dict.fromkeys(why_ended(answer.reason) for answer in ended)])
    words = decoding_words(request.sampling, Decoding())
    return ended_words(words, [answer.new for answer in ended], len(answers), request.max_new_tokens, why)


def known_of(model: ModelOnServer) -> BeforeOpening:
    """Return the facts of a served model before it runs. Nobody can know which weights its server holds."""
    return BeforeOpening(model.info, 0, model.max_tokens, None, model.where.url)


def ids_in(values: Any) -> list[int]:
    """Return a list of token ids from a server. Raises `CaptureError` for anything else."""
    if not isinstance(values, list) or not all(type(one) is int and 0 <= one <= LARGEST_ID for one in values):
        raise CaptureError(f"The server's token ids are not a list of whole numbers; got {shown(values)}. Ask again.")
    return values


def only_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the one choice that was asked for. Raises `InvalidTrace` if there are more, or none."""
    found = choices(answer)
    if len(found) != 1:
        raise InvalidTrace(f"It has {len(found)} choices, and one was asked for.")
    return found[0]


def sampling_options(sampling: Sampling, seed: str) -> dict[str, Any]:
    """Return `Sampling` as options of a server, whatever settings the checkpoint has. `seed`: that option's name."""
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p or 1.0, "top_k": sampling.top_k or -1}
    plain = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    return how | plain | ({seed: sampling.seed} if sampling.temperature else {})


def limits_of(seconds: float | None) -> ConnectionLimits:
    """Return the seconds to wait. Raises `CaptureError` for an invalid time."""
    if seconds is not None and not 0 < seconds < 10**7:
        raise CaptureError(f"seconds is {seconds!r}; it must be the seconds to wait for an answer, more than 0.")
    return ConnectionLimits() if seconds is None else ConnectionLimits(seconds)
