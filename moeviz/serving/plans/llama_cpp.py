"""llama.cpp: the experts of a layer are one tensor, so whole layers stay in CPU memory, and single experts cannot."""

import json
import re

from moeviz.model_info import ModelInfo
from moeviz.serving.plans.plan import ExpertPlan, Layers

OPTION = re.compile(r"-ot 'blk\\\.\(([\d|]*)\)\\\.ffn_\.\*_exps\\\.=CPU'")


def write_llama_cpp(plan: ExpertPlan) -> bytes:
    """The option that leaves the experts of some layers in CPU memory: those of which a step reads the least.

    Nothing, if all layers are on the GPU.

    **Source**: llama.cpp, `--override-tensor` (ggml-org/llama.cpp, pull request 11397).
    """
    rest = sorted(plan.by_need[plan.layers_on_gpu :])
    return (f"-ot 'blk\\.({'|'.join(map(str, rest))})\\.ffn_.*_exps\\.=CPU'" if rest else "").encode()


def read_llama_cpp(data: bytes, model: ModelInfo) -> Layers:
    """The layers whose experts stay in CPU memory, with nothing said of their experts."""
    found = OPTION.fullmatch(data.decode())
    return {int(layer): () for layer in found[1].split("|")} if found else {}


def llama_cpp_command(plan: ExpertPlan, file: str) -> str:
    """Write the command for llama.cpp; `-ncmoe N` leaves the first N layers in CPU memory instead."""
    return f"llama-server -m MODEL.gguf -ngl 99 -ot …   # the option that is in {json.dumps(file)}"
