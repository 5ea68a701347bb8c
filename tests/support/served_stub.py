"""A server on this machine that answers as vLLM or SGLang would, for a model that anybody can work out, and misbehaves.

The model reads bytes: token id 3 + byte. It writes "b" for ever. Token t goes, at layer l, to experts (t + l) % 8 and
(t + l + 3) % 8; layers in `dense` hold zeros.
"""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

LAYERS, EXPERTS, TOP_K = 4, 8, 2
Answer = tuple[int, dict[str, str], bytes]
Route = Callable[[dict[str, Any]], Any]


def read(text: str) -> list[int]:
    """The token ids of a text."""
    return [3 + byte for byte in text.encode()]


def said(ids: list[int]) -> str:
    """The text of token ids."""
    return bytes(one - 3 for one in ids).decode(errors="replace")


def routed(ids: list[int], dense: tuple[int, ...] = ()) -> np.ndarray:
    """Where tokens go, (T, L, K)."""
    layers = np.arange(LAYERS)
    first = (np.array(ids)[:, None] + layers) % EXPERTS
    rows = np.stack([first, (first + 3) % EXPERTS], axis=-1)
    rows[:, list(dense)] = 0
    return rows


def npy(rows: np.ndarray) -> str:
    """Routing as vLLM sends it since 0.22."""
    file = io.BytesIO()
    np.save(file, rows.astype(np.uint8))
    return base64.b64encode(file.getvalue()).decode()


def raw(rows: np.ndarray) -> str:
    """Routing as SGLang sends it."""
    return base64.b64encode(rows.astype("<i4").tobytes()).decode()


class Stub:
    """What a server does. Replace `routes` to have it do something else."""

    def __init__(self, dense: tuple[int, ...] = ()) -> None:
        self.dense = dense
        self.url = ""
        self.writes = 2**15  # tokens, at most
        self.reason: str | None = "length"  # why it ends
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []  # path, body and headers of each request
        self.left = threading.Event()  # somebody hung up before the answer was sent
        self.routes: dict[str, Route] = {
            "/v1/models": lambda body: {"data": [{"id": "tiny", "root": "some/model", "max_model_len": 256}]},
            "/version": lambda body: {"version": "0.30.0"},
            "/tokenize": lambda body: {"tokens": read(body["prompt"]), "count": len(read(body["prompt"]))},
            "/detokenize": self.detokenize,
            "/v1/completions": lambda body: self.complete(body, read(body["prompt"])),
            "/v1/chat/completions": lambda body: self.chat(body),
            "/generate": self.generate,
            "/model_info": lambda body: {"model_path": "some/model"},
        }

    def rows(self, ids: list[int], start: int = 0) -> np.ndarray:
        """What the routers decided for all tokens but the last."""
        return routed(ids[:-1], self.dense)[start:]

    def written(self, asked: int) -> list[int]:
        """What it generates."""
        return read("b") * min(asked, self.writes)

    def complete(self, body: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        """A completion of vLLM."""
        new = self.written(body["max_tokens"])
        rows = self.rows([*prompt, *new], body.get("routed_experts_prompt_start", 0))
        choice = {"prompt_token_ids": prompt, "token_ids": new, "routed_experts": npy(rows)}
        return {"choices": [choice | {"finish_reason": self.reason}]}

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat of vLLM: the ids of its prompt stand above the choices. Or one of SGLang."""
        prompt = read("".join(f"{turn['role']}: {turn['content']}\n" for turn in body["messages"]))
        if not body.get("return_routed_experts"):
            answer = self.complete(body, prompt)
            return answer | {"prompt_token_ids": answer["choices"][0].pop("prompt_token_ids")}
        new = self.written(body["max_tokens"])
        meta = {"output_token_logprobs": [[-0.1, one, None] for one in new]}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(new)}
        rows = raw(self.rows([*prompt, *new]))
        choice = {"prompt_token_ids": prompt, "meta_info": meta, "finish_reason": self.reason}
        return {"choices": [choice], "usage": usage, "sglext": {"routed_experts": rows}}

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """What SGLang answers to /generate."""
        prompt, new = body["input_ids"], self.written(body["sampling_params"]["max_new_tokens"])
        rows = self.rows([*prompt, *new], body.get("routed_experts_start_len", 0))
        meta = {"prompt_tokens": len(prompt), "completion_tokens": len(new), "routed_experts": raw(rows)}
        return {"output_ids": new, "meta_info": meta | {"finish_reason": {"type": self.reason}}}

    def detokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """vLLM decodes one sequence, SGLang several."""
        if body["tokens"] and isinstance(body["tokens"][0], list):
            return {"text": [said(ids) for ids in body["tokens"]]}
        return {"prompt": said(body["tokens"])}

    def answer(self, path: str, body: dict[str, Any]) -> Answer:
        """Status, headers and body."""
        if path not in self.routes:
            return 404, {}, b'{"detail": "Not Found"}'
        found = self.routes[path](body)
        if isinstance(found, tuple):
            return found
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        return 200, {}, data


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _serve(self, body: dict[str, Any]) -> None:
        self.stub.asked.append((self.path, body, {name.lower(): value for name, value in self.headers.items()}))
        status, headers, data = self.stub.answer(self.path, body)
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), "content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            self.stub.left.set()
        if "content-length" in headers:  # a lie: nothing more comes
            self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, *_where: object) -> None:  # who hangs up is no error of the test
        self.RequestHandlerClass.stub.left.set()


@contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """The stub at a port of this machine, as long as somebody uses it."""
    with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": stub})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        stub.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield stub
        finally:
            server.shutdown()
            thread.join()
