"""SGLang, 0.5.13 or newer, started with --enable-return-routed-experts: ids of prompt and generated tokens, no weights.

Its routing is bare numbers without a shape: the numbers of layers and experts must come from a config or from the user.
"""

from typing import Any

from moeviz.capture.engines.engine import BeforeOpening
from moeviz.capture.engines.served.answer import ServedAnswer
from moeviz.capture.engines.served.connection import Ids, NotThere, Server
from moeviz.capture.engines.served.model import (
    ModelOnServer,
    ids_in,
    known_of,
    limits_of,
    only_choice,
    sampling_options,
)
from moeviz.capture.engines.served.name import server_name
from moeviz.capture.run.chat import conversation_of
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidTrace
from moeviz.formats.importers import sglang
from moeviz.formats.importers.build_trace import SequenceRouting, tokens_of
from moeviz.text import quoted


class SglangModel(ModelOnServer):
    """A model of an SGLang server."""

    async def what_runs(self, server: Server) -> tuple[str | None, str]:
        """The path or id that the server was started with."""
        for route in ("/model_info", "/get_model_info"):
            try:
                path = (await server.ask(route)).get("model_path")
                return (path if isinstance(path, str) else None), "its server"
            except NotThere:
                continue
        return None, "its server"

    async def complete(self, server: Server, prompt: str, request: CaptureRequest) -> ServedAnswer:
        """Ask /generate, for tokens that the server made itself; for a chat, /v1/chat/completions."""
        if self.told.hidden_layers is None or self.told.top_k is None:
            raise CaptureError(
                f"SGLang sends numbers without a shape, and does not say how many layers {quoted(self.served)} has and "
                "to how many experts a token goes. Name a config that does, a folder or an id on the hub: "
                "load_model(…, facts=…), or ?facts=… behind the address. Or say hidden_layers=… and top_k=…"
            )
        return await (self._chat if request.chat else self._generate)(server, prompt, request)

    async def _generate(self, server: Server, prompt: str, request: CaptureRequest) -> ServedAnswer:
        ids = await self.tokenize(server, prompt)
        how = sampling_options(request.sampling, "sampling_seed") | {"max_new_tokens": max(request.max_new_tokens, 1)}
        body = {"input_ids": ids, "sampling_params": how, **self._wanted()}
        answer = await server.ask("/generate", body, large=True)
        new = ids_in(answer.get("output_ids"))
        return ServedAnswer(self._part(answer, ids, new), len(new), reason=_reason(answer.get("meta_info")))

    async def _chat(self, server: Server, prompt: str, request: CaptureRequest) -> ServedAnswer:
        how = sampling_options(request.sampling, "seed") | {"max_tokens": max(request.max_new_tokens, 1)}
        ids = {"return_prompt_token_ids": True, "return_meta_info": True, "logprobs": True}
        body = {
            "model": self.served,
            "messages": conversation_of(prompt, request.system),
            **how,
            **ids,
            **self._wanted(),
        }
        answer = await server.ask("/v1/chat/completions", body, large=True)
        choice = only_choice(answer)
        old, new = tokens_of(answer, choice)
        meta = choice.get("meta_info")
        if new is None and isinstance(meta, dict):
            new = [one[1] for one in meta.get("output_token_logprobs") or ()]
        if not old or new is None:
            raise CaptureError(
                f"{self.where.url} does not say which tokens a chat was made of. moeviz needs SGLang 0.5.13 or newer."
            )
        answer = answer if sglang.routed(answer) is not None else answer | {"meta_info": meta}
        part = self._part(answer, ids_in(old), ids_in(new))
        return ServedAnswer(part, len(new), old, answer.get("model"), choice.get("finish_reason"))

    def _wanted(self) -> dict[str, Any]:
        return {"return_routed_experts": True} | (
            {"routed_experts_start_len": self.told.start} if self.told.start else {}
        )

    def _part(self, answer: dict[str, Any], old: list[int], new: list[int]) -> SequenceRouting:
        """Return the routing in an answer, and its tokens. Raises `InvalidTrace` if the two do not fit."""
        if sglang.routed(answer) is None:
            raise CaptureError(
                f"{self.where.url} answered without routed experts. Start the server with "
                "--enable-return-routed-experts, and talk to it directly: gateways may drop what is asked for."
            )
        meta = answer.get("meta_info")
        counted = meta if isinstance(meta, dict) and "prompt_tokens" in meta else answer.get("usage") or {}
        if (counted.get("prompt_tokens"), counted.get("completion_tokens")) != (len(old), len(new)):
            raise InvalidTrace(
                f"It counts {counted.get('prompt_tokens')} tokens of the prompt and {counted.get('completion_tokens')} "
                f"new ones, and lists {len(old)} and {len(new)}."
            )
        return sglang.read_response(answer | {"meta_info": counted | _routing(answer)}, self.told, [*old, *new])

    async def detokenize(self, server: Server, several: list[Ids]) -> list[str]:
        """By /detokenize, all at once."""
        body = {"model": self.served, "tokens": [list(ids) for ids in several], "skip_special_tokens": False}
        found = (await server.ask("/detokenize", body, large=True)).get("text")
        if not isinstance(found, list) or len(found) != len(several):
            raise CaptureError(f"{self.where.url} did not decode as many tokens as it was asked for. Ask again.")
        return found


def _reason(meta: Any) -> Any:
    """Why SGLang ended: {"type": "stop", "matched": …}, or the bare word."""
    found = meta.get("finish_reason") if isinstance(meta, dict) else None
    return found.get("type") if isinstance(found, dict) else found


def _routing(answer: dict[str, Any]) -> dict[str, Any]:
    return {"routed_experts": sglang.routed(answer)}


def open_model(
    name: str, *, facts: str | None = None, seconds: float | None = None, check_memory: bool = True, **told: Any
) -> SglangModel:
    """Open a model on an SGLang server, by a name such as "sglang+http://localhost:30000".

    Arguments and errors as of `moeviz.capture.engines.served.vllm.open_model`. `facts`, or `hidden_layers` and `top_k`,
    are needed unless the server runs a well-known model. A seed is followed only by a server that was started with
    --enable-deterministic-inference.
    """
    return SglangModel(server_name("sglang", name, facts, **told), limits_of(seconds))


def before_opening(name: str) -> BeforeOpening:
    """Ask a server for the facts of its model. It takes no memory here."""
    return known_of(open_model(name))
