"""Every way of running a model, held against a plain forward over the same tokens.

Whatever way a sequence came about, the routing of its tokens must be what the experts receive when the model reads the
finished sequence in one piece. A witness hears that (`oracle.py`); it knows nothing of routers, rows or caches.
"""

import importlib.util
import tempfile
import types
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, TorchAoConfig

from moeviz.capture.record.hooks import listen
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.run.decoding import Decoding, Sampling
from moeviz.capture.trace import stream, trace
from moeviz.errors import CaptureError
from moeviz.routing_trace import RoutingTrace
from survey.compare import EQUAL, NOT_TRIED, ONE, WRONG, as_it_runs, told_apart
from survey.tiny_models import random_model, tokenizer

FAMILIES = (
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "glm4_moe",
    "ernie4_5_moe",
    "granitemoe",
    "lfm2_moe",
    "minimax_m2",
)
TWO = ["To be", "12 + 7 = 19, und heute ist es kalt"]
NEW = 6


def way(traced: Callable = trace, prompts: str | list[str] = TWO, **options: object) -> Callable[[str], str]:
    """A way of running that is a matter of arguments."""

    def run(architecture: str) -> str:
        model = random_model(architecture)
        return told_apart(traced(model, prompts, tokenizer=tokenizer(), **options), model)

    return run


def _streamed(model: PreTrainedModel, prompts: list[str], **options: object) -> RoutingTrace:
    """The last trace of a stream, of which every one must begin the next."""
    grown = list(stream(model, prompts, **options))
    for earlier, later in pairwise(grown):
        if not set(zip(*_places(earlier), strict=True)) <= set(zip(*_places(later), strict=True)):
            raise CaptureError("A stream forgot tokens that it had told.")
    return grown[-1]


def _places(trace: RoutingTrace) -> list[list[int]]:
    return [trace.tokens[name].tolist() for name in ("sequence", "position", "token_id")]


def _assisted(architecture: str) -> str:
    decoding = Decoding(assistant_model=random_model("mixtral"))
    return way(prompts=ONE, max_new_tokens=NEW, decoding=decoding)(architecture)


def _compiled(architecture: str) -> str:
    """Compiled before it is recorded."""
    torch._dynamo.reset()
    model = random_model(architecture)
    model.compile(backend="eager")
    model(torch.tensor([[5, 6, 7]]))
    return told_apart(trace(model, TWO, tokenizer=tokenizer(), max_new_tokens=NEW), random_model(architecture))


def _compiled_meanwhile(architecture: str) -> str:
    """A layer that is compiled while it is recorded: its router is heard in between the pieces."""
    torch._dynamo.reset()
    model, ids = random_model(architecture), torch.tensor([[5, 6, 7, 8]])
    with listen(model) as expected:
        model(ids)
    with listen(model) as recording:
        model.get_submodule(f"{model.base_model_prefix}.layers")[-1].compile(backend="eager")
        model(ids)
    recording.check()
    same = all((a == b).all() for a, b in zip(recording.rows("experts"), expected.rows("experts"), strict=True))
    return EQUAL if same else f"{WRONG}: other experts than uncompiled"


def _offloaded(architecture: str, offload: Callable[[PreTrainedModel, str], object]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(architecture)
        offload(model, folder)
        made = trace(model, TWO, tokenizer=tokenizer(), max_new_tokens=NEW)
    return told_apart(made, random_model(architecture))


def _half_on_disk(model: PreTrainedModel, folder: str) -> None:
    """The later half of the layers on disk, the rest in memory: what device_map="auto" does when memory is short."""
    base = model.base_model_prefix
    depth = len(model.get_submodule(f"{base}.layers"))
    parts = {name for name, _ in model.named_children()} - {base}
    parts |= {f"{base}.{name}" for name, _ in model.get_submodule(base).named_children()} - {f"{base}.layers"}
    where = dict.fromkeys(parts, "cpu")
    where |= {f"{base}.layers.{i}": "cpu" if i < depth // 2 else "disk" for i in range(depth)}
    dispatch_model(model, where, main_device="cpu", offload_dir=folder)


def _quantised(architecture: str, config: Callable[[], object]) -> str:
    """Linear layers by torchao; transformers' experts and routers are no Linear, and stay as they are."""
    if importlib.util.find_spec("torchao") is None:
        return f"{NOT_TRIED}: torchao is not installed"
    with tempfile.TemporaryDirectory() as folder:
        random_model(architecture).save_pretrained(folder)
        quantised = TorchAoConfig(config())
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantised, device_map="cpu").eval()
        return as_it_runs(model)


def _int8() -> object:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig()


def _int4() -> object:
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    return IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(8))


def _bypassed(architecture: str) -> str:
    """A block as a kernel from the hub replaces it: its router is never called."""
    model = random_model(architecture)
    block = model.get_submodule(find_routers(model)[-1].block_path)
    beside = (None,) if architecture == "gpt_oss" else ()  # its layer takes two answers of the block

    def unchanged(_block: nn.Module, hidden: torch.Tensor, *_args: object, **_named: object) -> object:
        return (hidden, *beside) if beside else hidden

    block.forward = types.MethodType(unchanged, block)
    trace(model, TWO, tokenizer=tokenizer())
    return f"{WRONG}: a router that never ran went unnoticed"


GENERATE = {"max_new_tokens": NEW}
KERNELS = {"kernels": True, **GENERATE}
WAYS: dict[str, Callable[[str], str]] = {
    "prompts, padded on the left": way(),
    "generate": way(**GENERATE),
    "static cache": way(**GENERATE, decoding=Decoding(cache_implementation="static")),
    "3 drawn of each": way(**GENERATE, decoding=Decoding(num_return_sequences=3), sampling=Sampling(1.0)),
    "2 of 3 beams": way(**GENERATE, decoding=Decoding(num_beams=3, num_return_sequences=2)),
    "prompt in pieces": way(**GENERATE, decoding=Decoding(prefill_chunk_size=4)),
    "prompt lookup": way(**GENERATE, prompts=ONE, decoding=Decoding(prompt_lookup_num_tokens=3)),
    "assistant drafts": _assisted,
    "streamed": way(_streamed, **GENERATE),
    "kernels": way(**KERNELS),
    "kernels, beams": way(**KERNELS, decoding=Decoding(num_beams=3)),
    "kernels, prompt lookup": way(
        partial(trace, kernels=True), **GENERATE, prompts=ONE, decoding=Decoding(prompt_lookup_num_tokens=3)
    ),
    "compiled before": _compiled,
    "compiled meanwhile": _compiled_meanwhile,
    "CPU offload": partial(_offloaded, offload=lambda model, _folder: cpu_offload(model, torch.device("cpu"))),
    "disk offload": partial(_offloaded, offload=lambda model, folder: disk_offload(model, folder, torch.device("cpu"))),
    "half on disk": partial(_offloaded, offload=_half_on_disk),
    "int8": partial(_quantised, config=_int8),
    "int4": partial(_quantised, config=_int4),
    "router bypassed": _bypassed,
}
