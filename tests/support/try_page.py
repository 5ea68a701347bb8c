"""The model of docs/try, asked in a browser, and what its answers are held against: `moeviz.trace` of the same text."""

from base64 import b64decode
from typing import Any

import numpy as np
from playwright.sync_api import Page

from moeviz.routing_trace import RoutingTrace

KINDS = {"experts": np.int16, "weights": np.float32, "logits": np.float32}
TIE = 5e-5  # of logits: where two experts are so near, another order of a sum may choose the other one
NEAR = 1e-5  # of weights and probabilities
# Arrays come as letters, and next tokens as texts and probabilities.
BEGIN = """(options) => new Promise((done, failed) => {
  const from = document.querySelector("script[type=module]").src;
  window.model = new Worker(new URL("worker.js", from), { type: "module" });
  window.model.onmessage = ({ data }) => data.ready ? done(data.ready) : data.failed && failed(new Error(data.failed));
  const folder = new URL(`../../../${options.folder}/`, from).href;
  window.model.postMessage({ open: { folder, plain: options.plain } });
})"""
ASK = """(message) => new Promise((done, failed) => {
  const letters = (array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  };
  const parts = (lists, name) => lists.map((list) => list.map((one) => one[name]));
  const number = (window.number = (window.number ?? 0) + 1), begun = performance.now();
  window.model.onmessage = ({ data }) => {
    if (data.number !== number || data.deciding) return;
    if (data.refused) return failed(new Error(data.refused));
    const answer = data.run ?? data.mute ?? data.decide;
    for (const name of ["experts", "weights", "logits"]) if (answer[name]) answer[name] = letters(answer[name]);
    for (const name of ["next", "lens"])
      answer[name] &&= { texts: parts(answer[name], "text"), p: parts(answer[name], "p") };
    done({ ...answer, took: performance.now() - begun });
  };
  window.model.postMessage({ ...message, number });
})"""


def begin(page: Page, folder: str, *, plain: bool = False) -> dict[str, Any]:
    """Load the model into a page of `try/`, beside the page's own; what it says of itself."""
    told: dict[str, Any] = page.evaluate(BEGIN, {"folder": folder, "plain": plain})
    return told


def ask(page: Page, **message: Any) -> dict[str, Any]:
    """The model's answer: arrays [layer, token, …]."""
    answer: dict[str, Any] = page.evaluate(ASK, message)
    layers = answer.get("L", 6)
    for name, kind in KINDS.items():
        if name in answer:
            flat = np.frombuffer(b64decode(answer[name]), kind)
            width = answer["E"] if name == "logits" else 2
            answer[name] = flat.reshape(layers, -1, width)
    return answer


def run(page: Page, text: str, **more: Any) -> dict[str, Any]:
    """The routing of a text."""
    return ask(page, run=text, **({"most": 1024} | more))


def difference(trace: RoutingTrace, answer: dict[str, Any]) -> dict[str, Any]:
    """How far an answer is from a trace of the same text. `ids` (rows whose experts differ) leaves out near ties."""
    assert answer["experts"].shape == trace.experts.shape, (answer["experts"].shape, trace.experts.shape)
    assert trace.weights is not None and trace.logits is not None
    differ = (answer["experts"] != trace.experts).any(-1)
    first = np.sort(trace.logits, -1)[..., ::-1][..., : trace.model.top_k + 1]
    tie = (first[..., :-1] - first[..., 1:]).min(-1) < TIE
    found = {
        "rows": differ.size,
        "ids": int((differ & ~tie).sum()),
        "ties": [tuple(map(int, place)) for place in np.argwhere(differ & tie)],
        "near": int(tie.sum()),
        "weights": _most(answer["weights"] - trace.weights, ~differ),
        "logits": _most(answer["logits"] - trace.logits, ~differ),
    }
    if (next_tokens := trace.next_tokens) is not None:
        found |= _of_next("next", answer["next"], next_tokens.texts, next_tokens.rows, next_tokens.p)
        if next_tokens.lens_rows is not None and next_tokens.lens_p is not None and answer["lens"] is not None:
            ids, p = (part.reshape(-1, part.shape[-1]) for part in (next_tokens.lens_rows, next_tokens.lens_p))
            found |= _of_next("lens", answer["lens"], next_tokens.texts, ids, p)
    return found


def _most(difference: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(difference[where]).max(initial=0))


def _of_next(name: str, mine: dict[str, Any], texts: tuple[str, ...], ids: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """Rows of five whose texts differ where their probabilities do not; and how far these are apart."""
    apart = np.abs(np.array(mine["p"]) - p)
    named = np.array(mine["texts"], object) != np.array(texts, object)[ids]
    gaps = np.minimum(np.diff(-p, prepend=-2.0, axis=1), np.diff(-p, append=0.0, axis=1))
    return {name: int((named & (gaps > NEAR)).any(1).sum()), f"{name} p": float(apart.max(initial=0))}
