"""The inference engines that read a plan: what their file is called, who writes and reads it, how they are started."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from shlex import quote
from typing import NamedTuple

from moeviz.claims import Claim
from moeviz.errors import MissingField, MoevizError
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.serving import captions
from moeviz.serving.budget import most_used_sentence
from moeviz.serving.placement import together_sentence
from moeviz.serving.plans.plan import ExpertPlan, Layers, all_rows, check_plan, even_experts, layers_in_all
from moeviz.text import spans

MAP = "physical_to_logical_map"  # SGLang's
YAML_ROW = re.compile(r"^  (\d+): \[([\d, ]+)\]$", re.MULTILINE)  # TensorRT-LLM's
COUNT = "logical_count"  # KTransformers'
OPTION = re.compile(r"-ot 'blk\\\.\(([\d|]*)\)\\\.ffn_\.\*_exps\\\.=CPU'")


# llama.cpp: the experts of a layer are one tensor, so whole layers stay in CPU memory, and single experts cannot.


def write_llama_cpp(plan: ExpertPlan) -> bytes:
    """Return the option that leaves the experts of some layers in CPU memory: those of which a step reads the least.

    Nothing, if all layers are on the GPU.

    **Source**: llama.cpp, `--override-tensor` (ggml-org/llama.cpp, pull request 11397).
    """
    rest = sorted(plan.by_need[plan.layers_on_gpu :])
    return (f"-ot 'blk\\.({'|'.join(map(str, rest))})\\.ffn_.*_exps\\.=CPU'" if rest else "").encode()


def _read_llama_cpp(data: bytes, model: ModelInfo) -> Layers:
    found = OPTION.fullmatch(data.decode())
    return {int(layer): () for layer in found[1].split("|")} if found else {}  # the file names no experts


def _llama_cpp_command(plan: ExpertPlan, file: str) -> str:
    # `-ncmoe N` would leave the first N layers in CPU memory instead.
    return f"llama-server -m MODEL.gguf -ngl 99 -ot …   # the option that is in {json.dumps(file)}"


# Engines that read how often each expert was used, and plan by themselves: LMDeploy, KTransformers, a llama.cpp fork.


def write_llama_cpp_cache(plan: ExpertPlan) -> bytes:
    """Return a line `layer,expert` for each assignment, as the fork's llama-moe-trace writes them; files can be joined.

    **Source**: thecodacus/llama.cpp, pull request 5.
    """
    lines = (f"{layer},{expert}\n" * used for layer, row in plan.loads.items() for expert, used in enumerate(row))
    return ("layer,expert\n" + "".join(lines)).encode()


def _read_llama_cpp_cache(data: bytes, model: ModelInfo) -> Layers:
    counts = {layer: [0] * number for layer, number in zip(model.layers, model.num_experts, strict=True)}
    for line, used in Counter(data.splitlines()[1:]).items():
        layer, expert = map(int, line.split(b","))
        counts[layer][expert] = used
    return {layer: tuple(row) for layer, row in counts.items()}


def _llama_cpp_cache_command(plan: ExpertPlan, file: str) -> str:
    return (
        f"llama-server -m MODEL.gguf -ngl 99 -ncmoe 99 --moe-cache-profile {quote(file)} --moe-cache-slots S"
        "   # S: experts of each layer that fit in memory, as `moeviz params MODEL --gpu-memory GB` counts them"
    )


def write_lmdeploy(plan: ExpertPlan) -> bytes:
    """Return a bare list of a row of loads for every layer of the model; dense layers have zeros.

    **Source**: InternLM/lmdeploy, lmdeploy/pytorch/nn/eplb.py at b56ddfb6 and lmdeploy/pytorch/envs.py.
    """
    return json.dumps(_all_numbers(plan, plan.loads, "LMDeploy")).encode()


def _read_lmdeploy(data: bytes, model: ModelInfo) -> Layers:
    return _of_moe_layers(json.loads(data), model)


def _lmdeploy_command(plan: ExpertPlan, file: str) -> str:
    return (  # older versions know the variables without LMDEPLOY_
        f"LMDEPLOY_EPLB_EXPERTS_STATISTIC_FILE={quote(file)} LMDEPLOY_EPLB_NUM_GROUPS=1 "
        f"LMDEPLOY_EPLB_RANKS_PER_NODE={plan.devices} LMDEPLOY_EPLB_NUM_REDUNDANT_EXPERTS={plan.copies} "
        f"lmdeploy serve api_server MODEL --backend pytorch --ep {plan.devices} --enable-eplb"
    )


def write_ktransformers(plan: ExpertPlan) -> bytes:
    """Counts as SGLang's recorder writes them: one step, every layer of the model, dense ones with zeros.

    **Source**: kvcache-ai/ktransformers, doc/en/kt-kernel/experts-sched-Tutorial.md at 15c624dc, and the reader of
    sglang-kt, which refuses a profile with an MoE layer that has no counts.
    """
    return _recorded_loads(plan, plan.loads)


def write_ktransformers_together(plan: ExpertPlan) -> bytes:
    """Write a rank instead of each count, so that experts that share tokens are put on the GPU.

    **Source**: as for `write_ktransformers`: the highest numbers go to the GPU. Raises `MissingField` for counts.
    """
    if not plan.together:
        raise MissingField("Which experts share tokens needs the experts of each token, and counts do not have them.")
    return _recorded_loads(plan, plan.together)


def _recorded_loads(plan: ExpertPlan, numbers: Layers) -> bytes:
    import torch

    if empty := [layer for layer, loads in plan.loads.items() if not sum(loads)]:
        raise MissingField(f"KTransformers needs counts of every MoE layer, and layer {empty[0]} has none. Record it.")
    file = io.BytesIO()
    torch.save({COUNT: torch.tensor([_all_numbers(plan, numbers, "KTransformers")])}, file)
    return file.getvalue()


def _read_ktransformers(data: bytes, model: ModelInfo) -> Layers:
    import torch

    steps = torch.load(io.BytesIO(data), weights_only=True)[COUNT]  # nothing is unpickled but tensors
    return _of_moe_layers(steps.sum(dim=0).tolist(), model)


def _ktransformers_command(plan: ExpertPlan, file: str) -> str:
    return (  # C is the number of experts per layer that fit into the GPU's memory
        "python -m sglang.launch_server --model MODEL --kt-num-gpu-experts C --kt-expert-placement-strategy frequency "
        f"--kt-expert-frequency-file {quote(file)}   # sglang-kt without that option: --init-expert-location, same file"
    )


def _all_numbers(plan: ExpertPlan, numbers: Layers, engine: str) -> list[list[int]]:
    return all_rows(numbers, [0] * even_experts(plan, engine), plan, engine)


def _of_moe_layers(rows: list[list[int]], model: ModelInfo) -> Layers:
    """Pick the rows of the MoE layers among those of all layers."""
    return {layer: tuple(rows[layer]) for layer in model.layers}


# Engines that read which expert is in which slot: SGLang, TensorRT-LLM, vLLM-Ascend.


def write_sglang(plan: ExpertPlan) -> bytes:
    """A row of slots for every layer of the model, dense ones too; these hold expert i % E in slot i, and are not used.

    **Source**: sgl-project/sglang, python/sglang/srt/eplb/expert_location.py at 01fec5c2: the file's keys are passed on
    as arguments, so there must be no other key.
    """
    experts = even_experts(plan, "SGLang")
    unused = [slot % experts for slot in range(experts + plan.copies)]
    return json.dumps({MAP: all_rows(plan.slots, unused, plan, "SGLang")}).encode()


def _read_sglang(data: bytes, model: ModelInfo) -> Layers:
    return _of_moe_layers(json.loads(data)[MAP], model)


def _sglang_command(plan: ExpertPlan, file: str) -> str:
    return (
        f"python -m sglang.launch_server --model-path MODEL --tp {plan.devices} --ep-size {plan.devices} "
        f"--ep-num-redundant-experts {plan.copies} --init-expert-location {quote(file)}"
    )


def write_tensorrt_llm(plan: ExpertPlan) -> bytes:
    """A list of slots for each MoE layer, by the model's own index; dense layers are left out. The plan is static.

    **Source**: NVIDIA/TensorRT-LLM, examples/wide_ep/ep_load_balancer/generate_eplb_config.py at 76a646e9.
    """
    even_experts(plan, "TensorRT-LLM")
    rows = [f"  {layer}: [{', '.join(map(str, slots))}]" for layer, slots in plan.slots.items()]
    slots = len(next(iter(plan.slots.values())))
    lines = ["initial_global_assignments:", *rows, "layer_updates_per_iter: 0", f"num_slots: {slots}"]
    return "\n".join([*lines, ""]).encode()


def _read_tensorrt_llm(data: bytes, model: ModelInfo) -> Layers:
    return {int(layer): tuple(map(int, slots.split(","))) for layer, slots in YAML_ROW.findall(data.decode())}


def _tensorrt_llm_command(plan: ExpertPlan, file: str) -> str:
    return (
        f"trtllm-serve MODEL --tp_size {plan.devices} --ep_size {plan.devices} --extra_llm_api_options options.yaml"
        f"   # options.yaml says: moe_config: {{load_balancer: {json.dumps(file)}}}"
    )


def write_vllm_ascend(plan: ExpertPlan) -> bytes:
    """Return the experts of each device, layer by layer; MoE layers are counted from 0.

    **Source**: vllm-project/vllm-ascend, vllm_ascend/eplb/adaptor/vllm_adaptor.py at 0011ce33, which takes all layers
    after the leading dense ones for MoE layers.
    """
    even_experts(plan, "vLLM-Ascend")
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


def _read_vllm_ascend(data: bytes, model: ModelInfo) -> Layers:
    return {
        model.layers[layer["layer_id"]]: tuple(e for device in layer["device_list"] for e in device["device_expert"])
        for layer in json.loads(data)["layer_list"]
    }


def _vllm_ascend_command(plan: ExpertPlan, file: str) -> str:
    config = {"eplb_config": {"expert_map_path": file, "num_redundant_experts": plan.copies}}
    return (
        f"vllm serve MODEL --enable-expert-parallel --tensor-parallel-size {plan.devices} "
        f"--additional-config {quote(json.dumps(config))}"
    )


def write_eplb(plan: ExpertPlan) -> bytes:
    """Write the three tables of EPLB's `rebalance_experts`, a row per layer, and the model's own index of each row.

    `phy2log` has the expert of each slot, `log2phy` the slots of each expert, with -1 behind them where another has
    more copies, and `logcnt` how many those are. For programs that call EPLB: no engine reads these tables from a file.

    **Source**: github.com/deepseek-ai/EPLB, eplb.py at d52c72d5.
    """
    even_experts(plan, "A table of EPLB")
    held = [
        [[p for p, e in enumerate(slots) if e == expert] for expert in range(len(plan.loads[layer]))]
        for layer, slots in plan.slots.items()
    ]
    most = max(len(places) for row in held for places in row)
    tables = {"layers": [*plan.slots], "phy2log": [[*slots] for slots in plan.slots.values()]}
    tables["log2phy"] = [[places + [-1] * (most - len(places)) for places in row] for row in held]
    return json.dumps(tables | {"logcnt": [[len(places) for places in row] for row in held]}).encode()


def _read_eplb(data: bytes, model: ModelInfo) -> Layers:
    tables = json.loads(data)
    rows = zip(tables["layers"], tables["log2phy"], tables["logcnt"], strict=True)
    found = {}
    for layer, places, copies in rows:
        expert_in = {p: e for e, (own, n) in enumerate(zip(places, copies, strict=True)) for p in own[:n]}
        found[layer] = tuple(expert_in[slot] for slot in range(len(expert_in)))
    return found


def _eplb_command(plan: ExpertPlan, file: str) -> str:
    return f"python -m json.tool {quote(file)}   # each of {plan.devices} devices holds the next slots of phy2log"


class Engine(NamedTuple):
    """The file and command by which an engine places experts."""

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


_slots, _loads, _together = map(attrgetter, ("slots", "loads", "together"))  # of a plan


def _on_cpu(plan: ExpertPlan) -> Layers:
    return dict.fromkeys(plan.by_need[plan.layers_on_gpu :], ())


ENGINES = {
    "sglang": Engine(
        "SGLang",
        ".json",
        "which expert is in each slot",
        write_sglang,
        _read_sglang,
        _slots,
        _sglang_command,
        "rows with the experts in order",
    ),
    "tensorrt-llm": Engine(
        "TensorRT-LLM",
        ".yaml",
        "which expert is in each slot",
        write_tensorrt_llm,
        _read_tensorrt_llm,
        _slots,
        _tensorrt_llm_command,
        "no rows",
    ),
    "vllm-ascend": Engine(
        "vLLM-Ascend",
        ".json",
        "which experts are on each device",
        write_vllm_ascend,
        _read_vllm_ascend,
        _slots,
        _vllm_ascend_command,
        "no rows",
    ),
    "eplb": Engine(
        "EPLB",
        ".json",
        "which expert is in each slot, and the slots of each expert: phy2log, log2phy, logcnt",
        write_eplb,
        _read_eplb,
        _slots,
        _eplb_command,
        "no rows",
    ),
    "ktransformers": Engine(
        "KTransformers",
        ".pt",
        "how often each expert was used; it puts the hottest on the GPU",
        write_ktransformers,
        _read_ktransformers,
        _loads,
        _ktransformers_command,
        "rows of zeros",
        (),
    ),
    "ktransformers-together": Engine(
        "KTransformers (by co-activation)",
        ".pt",
        "a rank of each expert; it puts those on the GPU that share tokens",
        write_ktransformers_together,
        _read_ktransformers,
        _together,
        _ktransformers_command,
        "rows of zeros",
        (),
    ),
    "lmdeploy": Engine(
        "LMDeploy",
        ".json",
        "how often each expert was used; it plans by itself",
        write_lmdeploy,
        _read_lmdeploy,
        _loads,
        _lmdeploy_command,
        "rows of zeros",
    ),
    "llama.cpp-cache": Engine(
        "llama.cpp with an expert cache (a fork)",
        ".csv",
        "how often each expert was used; it keeps the hottest on the GPU",
        write_llama_cpp_cache,
        _read_llama_cpp_cache,
        _loads,
        _llama_cpp_cache_command,
        "no lines",
        (),
    ),
    "llama.cpp": Engine(
        "llama.cpp",
        ".txt",
        "the layers whose experts stay in CPU memory",
        write_llama_cpp,
        _read_llama_cpp,
        _on_cpu,
        _llama_cpp_command,
        "nothing, which leaves them on the GPU",
        ("layers_on_gpu",),
    ),
}
# Engines that one would look for here, and that read no plan.
READ_NONE = {
    "vllm": "vLLM (through 0.32) reads no plan: it begins with experts in order, and its EPLB moves them as it runs. "
    "Pull requests that add a file are open, each with a format of its own (34811, 41141, 49572, 53022)."
}


def engine_named(name: str) -> Engine:
    """Return an engine by its name. Raises `MoevizError` for one that reads no plan or that moeviz does not know."""
    if name in READ_NONE:
        raise MoevizError(f"{READ_NONE[name]} Plans can be written for {', '.join(ENGINES)}.")
    if name not in ENGINES:
        raise MoevizError(f"moeviz knows no engine {name!r}. Plans can be written for {', '.join(ENGINES)}.")
    return ENGINES[name]


def sizes_for(name: str, devices: int | None, copies: int | None) -> tuple[int | None, int | None]:
    """Return the devices and copies to plan with for an engine: one device where its file says nothing of them."""
    return (devices, copies) if "devices" in engine_named(name).takes else (1, 0)


def plan_remarks(plan: ExpertPlan, name: str, trace: Counted) -> list[str]:
    """Return sentences about a plan in an engine's file: layers without a plan, slots that were repaired, and the
    plan's figures on tokens from which it was not made. `trace` is the one from which it was made.
    """
    engine = engine_named(name)
    remarks: list[str | None] = [_missing_layers(plan, engine)]
    if changed := engine.repaired(plan):
        remarks.append(captions.slots_changed(changed))
    if "layers_on_gpu" in engine.takes:
        remarks.append(captions.made_from_all(plan.tokens))
        remarks.append(captions.layers_on_gpu(engine.title, plan.layers_on_gpu, len(plan.slots)))
    elif not engine.takes:
        remarks.append(captions.made_from_all(plan.tokens))
        remarks.append(most_used_sentence(trace))
        if engine.holds is _together and isinstance(trace, RoutingTrace):
            remarks.append(together_sentence(trace))
    else:
        remarks.append(plan.judged)
    return [remark for remark in remarks if remark]


def _missing_layers(plan: ExpertPlan, engine: Engine) -> Claim | None:
    """Claim which layers the plan lacks; None if it has all of them. They may be dense: that is not known."""
    in_all = plan.num_layers or max(plan.slots) + 1
    missing = [layer for layer in range(in_all) if layer not in plan.slots]
    if not missing and plan.num_layers is not None:
        return None
    lacks = spans(missing) if missing else ""
    known = plan.num_layers is not None
    return captions.layers_planned(spans([*plan.slots]), len(plan.slots), lacks, engine.elsewhere, known)


def export_plan(plan: ExpertPlan, name: str) -> bytes:
    """Return the file that an engine reads. It is read back and compared with the plan before it is handed out.

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
