"""Engines that read how often each expert was used, and plan by themselves: LMDeploy, KTransformers."""

import io
import json
from shlex import quote

from moeviz.errors import MissingField
from moeviz.model_info import ModelInfo
from moeviz.serving.plans.plan import ExpertPlan, Layers, all_rows, check_even

COUNT = "logical_count"


def write_lmdeploy(plan: ExpertPlan) -> bytes:
    """A bare list of a row of loads for every layer of the model; dense layers have zeros.

    **Source**: InternLM/lmdeploy, lmdeploy/pytorch/nn/eplb.py at b56ddfb6 and lmdeploy/pytorch/envs.py.
    """
    return json.dumps(_loads(plan, "LMDeploy")).encode()


def read_lmdeploy(data: bytes, model: ModelInfo) -> Layers:
    """The loads of the MoE layers."""
    rows = json.loads(data)
    return {layer: tuple(rows[layer]) for layer in model.layers}


def lmdeploy_command(plan: ExpertPlan, file: str) -> str:
    """Write the command for LMDeploy. Older versions know the variables without LMDEPLOY_."""
    return (
        f"LMDEPLOY_EPLB_EXPERTS_STATISTIC_FILE={quote(file)} LMDEPLOY_EPLB_NUM_GROUPS=1 "
        f"LMDEPLOY_EPLB_RANKS_PER_NODE={plan.devices} LMDEPLOY_EPLB_NUM_REDUNDANT_EXPERTS={plan.copies} "
        f"lmdeploy serve api_server MODEL --backend pytorch --ep {plan.devices} --enable-eplb"
    )


def write_ktransformers(plan: ExpertPlan) -> bytes:
    """Counts as SGLang's recorder writes them: one step, every layer of the model, dense ones with zeros.

    **Source**: kvcache-ai/ktransformers, doc/en/kt-kernel/experts-sched-Tutorial.md at 15c624dc, and the reader of
    sglang-kt, which refuses a profile with an MoE layer that has no counts.
    """
    import torch

    if empty := [layer for layer, loads in plan.loads.items() if not sum(loads)]:
        raise MissingField(f"KTransformers needs counts of every MoE layer, and layer {empty[0]} has none. Record it.")
    file = io.BytesIO()
    torch.save({COUNT: torch.tensor([_loads(plan, "KTransformers")])}, file)
    return file.getvalue()


def read_ktransformers(data: bytes, model: ModelInfo) -> Layers:
    """The loads of the MoE layers. Nothing is unpickled but tensors."""
    import torch

    rows = torch.load(io.BytesIO(data), weights_only=True)[COUNT].sum(dim=0)
    return {layer: tuple(rows[layer].tolist()) for layer in model.layers}


def ktransformers_command(plan: ExpertPlan, file: str) -> str:
    """Write the command for KTransformers; C is how many experts a layer the GPU has memory for."""
    return (
        "python -m sglang.launch_server --model MODEL --kt-num-gpu-experts C --kt-expert-placement-strategy frequency "
        f"--kt-expert-frequency-file {quote(file)}   # sglang-kt without that option: --init-expert-location, same file"
    )


def _loads(plan: ExpertPlan, engine: str) -> list[list[int]]:
    check_even(plan, engine)
    (experts,) = {len(loads) for loads in plan.loads.values()}
    return all_rows(plan.loads, [0] * experts, plan, engine)
