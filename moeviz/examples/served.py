"""Answers of servers that say which experts each token went to, made of any trace: vLLM's and SGLang's forms."""

import io
from base64 import b64encode
from typing import Any

import numpy as np

from moeviz.routing_trace import RoutingTrace

LAST = 3  # the id of a generated token that no router saw, since it was never read: any will do


def vllm_answer(trace: RoutingTrace) -> dict[str, Any]:
    """Write a trace of one text as the completion of a vLLM server that returns routed experts, as from 0.22 on."""
    file = io.BytesIO()
    np.save(file, _rows(trace).astype(np.uint8))
    prompt, new = _tokens(trace)
    choice = {"index": 0, "finish_reason": "length", "prompt_token_ids": prompt, "token_ids": new}
    choice |= {"text": "".join(trace.tokens["text"][len(prompt) :]), "routed_experts": _text(file.getvalue())}
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(new)}
    return {"object": "text_completion", "model": trace.model.name, "choices": [choice], "usage": usage}


def sglang_answer(trace: RoutingTrace) -> dict[str, Any]:
    """Write a trace of one text as SGLang's answer to /generate: numbers without a shape."""
    prompt, new = _tokens(trace)
    meta = {"prompt_tokens": len(prompt), "completion_tokens": len(new), "finish_reason": {"type": "length"}}
    return {"output_ids": new, "meta_info": meta | {"routed_experts": _text(_rows(trace).astype("<i4").tobytes())}}


def _rows(trace: RoutingTrace) -> np.ndarray:
    return trace.experts.transpose(1, 0, 2)


def _tokens(trace: RoutingTrace) -> tuple[list[int], list[int]]:
    ids, generated = trace.tokens["token_id"], trace.tokens["phase"] == "generated"
    return ids[~generated].tolist(), [*ids[generated].tolist(), LAST]


def _text(data: bytes) -> str:
    return b64encode(data).decode()
