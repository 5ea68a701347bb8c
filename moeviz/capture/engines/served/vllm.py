"""vLLM, 0.21 or newer, started with --enable-return-routed-experts: ids of prompt and generated tokens, no weights."""

import re
from typing import Any

import anyio

from moeviz.capture.engines.engine import BeforeOpening
from moeviz.capture.engines.served.answer import ServedAnswer
from moeviz.capture.engines.served.connection import Ids, NotThere, Server
from moeviz.capture.engines.served.model import (
    ModelOnServer,
    known_of,
    limits_of,
    only_choice,
    sampling_options,
)
from moeviz.capture.engines.served.name import server_name
from moeviz.capture.run.chat import conversation_of
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError
from moeviz.formats.importers import vllm
from moeviz.formats.importers.build_trace import tokens_of

VERSION = re.compile(r"[\w.+-]{1,40}")
AT_ONCE = 16  # requests for the text of a token


class VllmModel(ModelOnServer):
    """A model of a vLLM server."""

    async def what_runs(self, server: Server) -> tuple[str | None, str]:
        """Return `root`, with which the server was started, and the version, which has a route of its own."""
        root = self.card.get("root")
        try:
            version = (await server.ask("/version")).get("version")
        except NotThere:  # behind a gateway
            version = None
        known = isinstance(version, str) and VERSION.fullmatch(version)
        by = f"its server ({version})" if known else "its server"
        return (root if isinstance(root, str) else None), by

    async def complete(self, server: Server, prompt: str, request: CaptureRequest) -> ServedAnswer:
        """By /v1/completions or /v1/chat/completions. A prompt by itself needs one new token, which meets no router."""
        body: dict[str, Any] = {
            "model": self.served,
            "max_tokens": max(request.max_new_tokens, 1),
            "return_token_ids": True,
            **sampling_options(request.sampling, "seed"),
        }
        if self.told.start:
            body["routed_experts_prompt_start"] = self.told.start
        if request.chat:
            path, body = "/v1/chat/completions", body | {"messages": conversation_of(prompt, request.system)}
        else:
            path, body = "/v1/completions", body | {"prompt": prompt}
        answer = await server.ask(path, body, large=True)
        choice = only_choice(answer)
        if choice.get("routed_experts") is None and not answer.get("prompt_routed_experts"):
            raise CaptureError(
                f"{self.where.url} answered without routed experts. Start the server with "
                "--enable-return-routed-experts (vLLM 0.21 or newer, a Mixture-of-Experts model)."
            )
        prompt, new = tokens_of(answer, choice)
        part = vllm.read_choice(answer, choice, self.told)
        return ServedAnswer(part, len(new or ()), prompt, answer.get("model"), choice.get("finish_reason"))

    async def detokenize(self, server: Server, several: list[Ids]) -> list[str]:
        """By /detokenize, one sequence a request and some requests at once."""
        found, few = [""] * len(several), anyio.Semaphore(AT_ONCE)
        failed: list[CaptureError] = []

        async def decode(at: int, ids: Ids) -> None:
            async with few:
                try:
                    answer = await server.ask("/detokenize", {"model": self.served, "tokens": list(ids)})
                    found[at] = answer.get("prompt", "")
                except CaptureError as error:  # a group of tasks would raise a group of errors
                    failed.append(error)
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for at, ids in enumerate(several):
                group.start_soon(decode, at, ids)
        if failed:
            raise failed[0]
        return found


def open_model(
    name: str, *, facts: str | None = None, seconds: float | None = None, check_memory: bool = True, **told: Any
) -> VllmModel:
    """Open a model on a vLLM server, by a name such as "vllm+http://localhost:8000#model-id".

    facts    a folder or hub id of the same model, the config of which says how many experts there are.
    seconds  to wait for one answer; default: 600.
    check_memory  makes no difference: the weights are elsewhere.
    told     other facts that the server does not give: experts, top_k, hidden_layers, moe_layers; start, the position
             of the first token whose routing is asked for.

    Raises `ModelNotFound` for a name that is not an address, and `CaptureError` if the server gives no routing.
    """
    return VllmModel(server_name("vllm", name, facts, **told), limits_of(seconds))


def before_opening(name: str) -> BeforeOpening:
    """Ask a server for the facts of its model. It takes no memory here."""
    return known_of(open_model(name))
