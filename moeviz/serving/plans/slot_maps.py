"""Engines that read which expert is in which slot: SGLang, TensorRT-LLM, vLLM-Ascend."""

import json
import re
from shlex import quote

from moeviz.errors import MoevizError
from moeviz.model_info import ModelInfo
from moeviz.serving.plans.plan import ExpertPlan, Layers, all_rows, check_even, layers_in_all

MAP = "physical_to_logical_map"
YAML_ROW = re.compile(r"^  (\d+): \[([\d, ]+)\]$", re.MULTILINE)


def write_sglang(plan: ExpertPlan) -> bytes:
    """A row of slots for every layer of the model, dense ones too; these hold expert i % E in slot i, and are not used.

    **Source**: sgl-project/sglang, python/sglang/srt/eplb/expert_location.py at 01fec5c2: the file's keys are passed on
    as arguments, so there must be no other key.
    """
    check_even(plan, "SGLang")
    (experts,) = {len(loads) for loads in plan.loads.values()}
    unused = [slot % experts for slot in range(experts + plan.copies)]
    return json.dumps({MAP: all_rows(plan.slots, unused, plan, "SGLang")}).encode()


def read_sglang(data: bytes, model: ModelInfo) -> Layers:
    """The slots of the MoE layers."""
    rows = json.loads(data)[MAP]
    return {layer: tuple(rows[layer]) for layer in model.layers}


def sglang_command(plan: ExpertPlan, file: str) -> str:
    """Write the command that starts SGLang with the plan."""
    return (
        f"python -m sglang.launch_server --model-path MODEL --tp {plan.devices} --ep-size {plan.devices} "
        f"--ep-num-redundant-experts {plan.copies} --init-expert-location {quote(file)}"
    )


def write_tensorrt_llm(plan: ExpertPlan) -> bytes:
    """A list of slots for each MoE layer, by the model's own index; dense layers are left out. The plan is static.

    **Source**: NVIDIA/TensorRT-LLM, examples/wide_ep/ep_load_balancer/generate_eplb_config.py at 76a646e9.
    """
    check_even(plan, "TensorRT-LLM")
    rows = [f"  {layer}: [{', '.join(map(str, slots))}]" for layer, slots in plan.slots.items()]
    slots = len(next(iter(plan.slots.values())))
    lines = ["initial_global_assignments:", *rows, "layer_updates_per_iter: 0", f"num_slots: {slots}"]
    return "\n".join([*lines, ""]).encode()


def read_tensorrt_llm(data: bytes, model: ModelInfo) -> Layers:
    """The slots of each layer."""
    return {int(layer): tuple(map(int, slots.split(","))) for layer, slots in YAML_ROW.findall(data.decode())}


def tensorrt_llm_command(plan: ExpertPlan, file: str) -> str:
    """Write the command that starts TensorRT-LLM with the plan."""
    return (
        f"trtllm-serve MODEL --tp_size {plan.devices} --ep_size {plan.devices} --extra_llm_api_options options.yaml"
        f"   # options.yaml says: moe_config: {{load_balancer: {json.dumps(file)}}}"
    )


def write_vllm_ascend(plan: ExpertPlan) -> bytes:
    """The experts of each device, layer by layer; MoE layers are counted from 0.

    **Source**: vllm-project/vllm-ascend, vllm_ascend/eplb/adaptor/vllm_adaptor.py at 0011ce33, which takes all layers
    after the leading dense ones for MoE layers.
    """
    check_even(plan, "vLLM-Ascend")
    layers, count = [*plan.slots], layers_in_all(plan, "vLLM-Ascend")
    if layers != [*range(count - len(layers), count)]:
        raise MoevizError(
            f"vLLM-Ascend takes all layers after the leading dense ones for MoE layers, and this model has them at "
            f"{layers} of {count}. It cannot be given a plan for such a model."
        )
    record = [_ascend_layer(row, slots, plan.devices) for row, slots in enumerate(plan.slots.values())]
    return json.dumps({"moe_layer_count": len(record), "layer_list": record}, indent=1).encode()


def _ascend_layer(row: int, slots: tuple[int, ...], devices: int) -> dict[str, object]:
    room = len(slots) // devices
    held = [{"device_id": n, "device_expert": list(slots[n * room : (n + 1) * room])} for n in range(devices)]
    return {"layer_id": row, "device_count": devices, "device_list": held}


def read_vllm_ascend(data: bytes, model: ModelInfo) -> Layers:
    """The slots of each layer."""
    return {
        model.layers[layer["layer_id"]]: tuple(e for device in layer["device_list"] for e in device["device_expert"])
        for layer in json.loads(data)["layer_list"]
    }


def vllm_ascend_command(plan: ExpertPlan, file: str) -> str:
    """Write the command that starts vLLM-Ascend with the plan."""
    config = {"eplb_config": {"expert_map_path": file, "num_redundant_experts": plan.copies}}
    return (
        f"vllm serve MODEL --enable-expert-parallel --tensor-parallel-size {plan.devices} "
        f"--additional-config {quote(json.dumps(config))}"
    )
