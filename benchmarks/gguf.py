"""GGUF models in llama.cpp: do they route as in transformers, what does quantisation change, what does listening cost?

    python -m benchmarks.gguf [equal] [quantised] [cost]

equal       seven architectures beside transformers in float32, prompt and generated tokens
quantised   the embedded model in float16, Q8_0 and Q4_K beside float32, with llama.cpp's usual cache too
cost        milliseconds a token, listening and not, in one interleaved run; with outputs of the last token alone too

Needs llama.cpp: `pip install "moeviz[gguf]"`. The files are written to a temporary folder.
"""

import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, MixtralForCausalLM

import moeviz
from moeviz.capture.engines.llama_cpp.context import ComputeOptions, Context
from moeviz.capture.engines.llama_cpp.recording import CallbackRecording
from moeviz.embedded import embedded_path
from moeviz.routing_trace import RoutingTrace

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
from gguf_models import MODELS, random_model, write_model

PROMPT = "Il fait froid à Paris. def f(x): return x + 12"
NEW = 8
CHARACTERS = 2600
ROUNDS, GENERATED, BATCH = 15, 60, 512
ARMS = {"listening": (True, True), "all outputs": (False, True), "last output": (False, False)}


def of_transformers(name: str):
    """The model in float32."""
    if name != "embedded":
        return random_model(name)
    return MixtralForCausalLM.from_pretrained(embedded_path(), dtype=torch.float32).eval()


def long_text() -> str:
    """A stretch of the evaluation texts, in all their languages."""
    lines = (embedded_path() / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(json.loads(line)["text"] for line in lines)[:CHARACTERS]


def compared(trace: RoutingTrace, expected: RoutingTrace) -> dict:
    """Count the equal ids and sets, and measure how far weights and logits of equal rows are apart."""
    same = trace.experts == expected.experts
    sets = (np.sort(trace.experts, -1) == np.sort(expected.experts, -1)).all(-1)
    rows = same.all(-1)
    tokens = trace.tokens["token_id"].equals(expected.tokens["token_id"])
    return {
        "tokens": "equal" if tokens else "different",
        "ids": f"{same.sum():,} of {same.size:,}",
        "sets": f"{sets.sum():,} of {sets.size:,}",
        "weights": f"{np.abs(trace.weights - expected.weights)[rows].max():.1e}",
        "logits": f"{np.abs(trace.logits - expected.logits).max():.1e}",
    }


def equal(folder: Path) -> None:
    """Compare seven architectures with transformers."""
    tokenizer, rows = AutoTokenizer.from_pretrained(embedded_path()), []
    for name in ("embedded", *MODELS):
        model = of_transformers(name)
        loaded = moeviz.load_model(str(write_model(model, folder / f"{name}.gguf")))
        expected = moeviz.trace(model, PROMPT, tokenizer=tokenizer, max_new_tokens=NEW)
        rows.append({"model": name} | compared(moeviz.trace(loaded, PROMPT, max_new_tokens=NEW), expected))
    print(pd.DataFrame(rows).to_string(index=False))


def quantised(folder: Path) -> None:
    """The embedded model in four types, with keys and values in float32, and as llama.cpp does by default."""
    model, text, rows = of_transformers("embedded"), long_text(), []
    expected = moeviz.trace("embedded", text)
    for kind in ("F32", "F16", "Q8_0", "Q4_K"):
        path = write_model(model, folder / f"{kind}.gguf", kind)
        for exact in (True, False):
            trace = moeviz.trace(moeviz.load_model(str(path), exact=exact), text)
            rows.append({"file": kind, "cache": "float32" if exact else "float16"} | compared(trace, expected))
    print(pd.DataFrame(rows).to_string(index=False))


def cost(folder: Path) -> None:
    """Each round runs every arm once, in another order each time; ratios are of medians."""
    path = write_model(of_transformers("embedded"), folder / "cost.gguf")
    weights, vocabulary = moeviz.load_model(str(path), threads=1).opened()
    ids = vocabulary.ids(long_text())
    taken = {arm: ([], []) for arm in ARMS}
    for number in range(ROUNDS):
        arms = list(ARMS)
        for arm in arms[number % 3 :] + arms[: number % 3]:
            for seconds, kept in zip(_timed(weights, ids, *ARMS[arm]), taken[arm], strict=True):
                kept.append(seconds)
    rows = {arm: [1e3 * float(np.median(part)) for part in parts] for arm, parts in taken.items()}
    frame = pd.DataFrame(rows, index=["prompt, ms/token", "generated, ms/token"])
    for arm in ("all outputs", "last output"):
        frame[f"listening / {arm}"] = frame["listening"] / frame[arm]
    print(frame.round(3).to_string())
    tokens = f"{len(ids)} prompt tokens, {GENERATED} generated"
    print(f"Medians of {ROUNDS} interleaved rounds, {tokens}, one thread, time of the processor.")


def _timed(weights, ids: list[int], listens: bool, outputs: bool) -> tuple[float, float]:
    """Seconds of the processor a token: of a prompt, and of tokens that come one at a time."""
    recording = CallbackRecording(weights.library, keep_logits=True) if listens else None
    how = ComputeOptions(threads=1, micro_batch=BATCH, exact=True)
    with closing(Context(weights, recording, how, 1, len(ids) + GENERATED + 16, all_outputs=outputs)) as context:
        context.read(0, 0, ids[:16])
        start = time.process_time()
        context.read(0, 16, ids[16:])
        between = time.process_time()
        for place, token in enumerate(ids[:GENERATED], start=len(ids)):
            context.read(0, place, [token])
        return (between - start) / (len(ids) - 16), (time.process_time() - between) / GENERATED


def main() -> None:
    """Run what was asked for, or all."""
    torch.set_num_threads(1)
    parts = {"equal": equal, "quantised": quantised, "cost": cost}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or parts:
            print(f"\n{name}")
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
