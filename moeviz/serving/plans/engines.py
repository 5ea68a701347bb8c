"""The inference engines that read a plan: what their file is called, who writes and reads it, how they are started."""

from collections.abc import Callable
from typing import NamedTuple

from moeviz.errors import MoevizError
from moeviz.model_info import ModelInfo
from moeviz.serving.plans import llama_cpp, load_tables, slot_maps
from moeviz.serving.plans.plan import ExpertPlan, Layers, check_plan


class Engine(NamedTuple):
    """How an engine is told where experts go."""

    title: str
    suffix: str
    reads: str  # what is in the file, for a person
    write: Callable[[ExpertPlan], bytes]
    read: Callable[[bytes, ModelInfo], Layers]
    holds: Callable[[ExpertPlan], Layers]  # what reading must give
    command: Callable[[ExpertPlan, str], str]


def _slots(plan: ExpertPlan) -> Layers:
    return plan.slots


def _loads(plan: ExpertPlan) -> Layers:
    return plan.loads


def _on_cpu(plan: ExpertPlan) -> Layers:
    return dict.fromkeys(plan.by_need[plan.layers_on_gpu :], ())


ENGINES = {
    "sglang": Engine(
        "SGLang",
        ".json",
        "which expert is in each slot",
        slot_maps.write_sglang,
        slot_maps.read_sglang,
        _slots,
        slot_maps.sglang_command,
    ),
    "tensorrt-llm": Engine(
        "TensorRT-LLM",
        ".yaml",
        "which expert is in each slot",
        slot_maps.write_tensorrt_llm,
        slot_maps.read_tensorrt_llm,
        _slots,
        slot_maps.tensorrt_llm_command,
    ),
    "vllm-ascend": Engine(
        "vLLM-Ascend",
        ".json",
        "which experts are on each device",
        slot_maps.write_vllm_ascend,
        slot_maps.read_vllm_ascend,
        _slots,
        slot_maps.vllm_ascend_command,
    ),
    "ktransformers": Engine(
        "KTransformers",
        ".pt",
        "how often each expert was used; it puts the hottest on the GPU",
        load_tables.write_ktransformers,
        load_tables.read_ktransformers,
        _loads,
        load_tables.ktransformers_command,
    ),
    "lmdeploy": Engine(
        "LMDeploy",
        ".json",
        "how often each expert was used; it plans by itself",
        load_tables.write_lmdeploy,
        load_tables.read_lmdeploy,
        _loads,
        load_tables.lmdeploy_command,
    ),
    "llama.cpp": Engine(
        "llama.cpp",
        ".txt",
        "the layers whose experts stay in CPU memory",
        llama_cpp.write_llama_cpp,
        llama_cpp.read_llama_cpp,
        _on_cpu,
        llama_cpp.llama_cpp_command,
    ),
}
# Engines that one would look for here, and that read no plan.
READ_NONE = {
    "vllm": "vLLM (through 0.32) reads no plan: it begins with experts in order, and its EPLB moves them as it runs. "
    "Pull requests that add a file are open, each with a format of its own.",
}


def engine_named(name: str) -> Engine:
    """An engine by its name. Raises `MoevizError` for one that reads no plan or that moeviz does not know."""
    if name in READ_NONE:
        raise MoevizError(f"{READ_NONE[name]} Plans can be written for {', '.join(ENGINES)}.")
    if name not in ENGINES:
        raise MoevizError(f"moeviz knows no engine {name!r}. Plans can be written for {', '.join(ENGINES)}.")
    return ENGINES[name]


def export_plan(plan: ExpertPlan, name: str) -> bytes:
    """The file that an engine reads. It is read back and compared with the plan before it is handed out.

    Raises `MoevizError` if the engine cannot hold such a plan, with the reason.
    """
    engine = engine_named(name)
    check_plan(plan)
    data = engine.write(plan)
    if engine.read(data, plan.model) != engine.holds(plan):
        raise MoevizError(
            f"The file for {engine.title} does not read back as the plan that it was written from. This is a mistake "
            "in moeviz; nothing was written."
        )
    return data
