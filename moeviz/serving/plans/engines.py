"""The inference engines that read a plan: what their file is called, who writes and reads it, how they are started."""

from collections.abc import Callable
from typing import NamedTuple

from moeviz.errors import MoevizError
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import Counted
from moeviz.serving.budget import most_used_sentence
from moeviz.serving.plans import llama_cpp, load_tables, slot_maps
from moeviz.serving.plans.plan import ExpertPlan, Layers, check_plan
from moeviz.text import spans


class Engine(NamedTuple):
    """How an engine is told where experts go."""

    title: str
    suffix: str
    reads: str  # what is in the file, for a person
    write: Callable[[ExpertPlan], bytes]
    read: Callable[[bytes, ModelInfo], Layers]
    holds: Callable[[ExpertPlan], Layers]  # what reading must give
    command: Callable[[ExpertPlan, str], str]
    elsewhere: str  # what is in the file for layers that the plan lacks
    takes: tuple[str, ...] = ("devices", "copies")  # the numbers that its file or its command depends on

    def repaired(self, plan: ExpertPlan) -> int:
        """Slots in the file that were changed so that no device has an expert twice; 0 where it has no slots."""
        return plan.repaired if self.holds is _slots else 0


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
        "rows with the experts in order",
    ),
    "tensorrt-llm": Engine(
        "TensorRT-LLM",
        ".yaml",
        "which expert is in each slot",
        slot_maps.write_tensorrt_llm,
        slot_maps.read_tensorrt_llm,
        _slots,
        slot_maps.tensorrt_llm_command,
        "no rows",
    ),
    "vllm-ascend": Engine(
        "vLLM-Ascend",
        ".json",
        "which experts are on each device",
        slot_maps.write_vllm_ascend,
        slot_maps.read_vllm_ascend,
        _slots,
        slot_maps.vllm_ascend_command,
        "no rows",
    ),
    "ktransformers": Engine(
        "KTransformers",
        ".pt",
        "how often each expert was used; it puts the hottest on the GPU",
        load_tables.write_ktransformers,
        load_tables.read_ktransformers,
        _loads,
        load_tables.ktransformers_command,
        "rows of zeros",
        (),
    ),
    "lmdeploy": Engine(
        "LMDeploy",
        ".json",
        "how often each expert was used; it plans by itself",
        load_tables.write_lmdeploy,
        load_tables.read_lmdeploy,
        _loads,
        load_tables.lmdeploy_command,
        "rows of zeros",
    ),
    "llama.cpp": Engine(
        "llama.cpp",
        ".txt",
        "the layers whose experts stay in CPU memory",
        llama_cpp.write_llama_cpp,
        llama_cpp.read_llama_cpp,
        _on_cpu,
        llama_cpp.llama_cpp_command,
        "nothing, which leaves them on the GPU",
        ("layers_on_gpu",),
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


def sizes_for(name: str, devices: int | None, copies: int | None) -> tuple[int | None, int | None]:
    """The devices and copies to plan with for an engine: one device where its file says nothing of them."""
    return (devices, copies) if "devices" in engine_named(name).takes else (1, 0)


def plan_remarks(plan: ExpertPlan, name: str, trace: Counted) -> list[str]:
    """Say in sentences what must be known of a plan in an engine's file.

    That is: for which layers the file has no plan, which slots were repaired, and how the plan does on tokens that it
    was not made from. `trace` is the one that the plan was made from.
    """
    engine = engine_named(name)
    remarks = [_missing_layers(plan, engine)]
    if changed := engine.repaired(plan):
        remarks.append(f"{changed} slots were changed, so that no device has an expert twice.")
    made = f"It is made from all {plan.tokens:,} tokens"
    if "layers_on_gpu" in engine.takes:
        where = f"the experts of {plan.layers_on_gpu} of {len(plan.slots)} stay on the GPU"
        whole = f"{engine.title} places whole layers: {where}, in those layers of which a step reads most."
        remarks.append(f"{made}, and was not judged on others. {whole}")
    elif not engine.takes:
        remarks.append(f"{made}. {most_used_sentence(trace)}")
    else:
        remarks.append(plan.judged)
    return [remark for remark in remarks if remark]


def _missing_layers(plan: ExpertPlan, engine: Engine) -> str:
    """Which layers the plan lacks; "" if it has all of them. Nobody knows whether these are dense."""
    in_all = plan.num_layers or max(plan.slots) + 1
    missing = [layer for layer in range(in_all) if layer not in plan.slots]
    unknown = "The trace does not say how many layers the model has in all. " if plan.num_layers is None else ""
    if not missing and not unknown:
        return ""
    has = f"{unknown}The plan is for {len(plan.slots)} layers: {spans([*plan.slots])}."
    if not missing:
        return has
    return (
        f"{has} For {spans(missing)} the file has {engine.elsewhere}: that is right if they are dense. If they have "
        "experts, record them too."
    )


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
