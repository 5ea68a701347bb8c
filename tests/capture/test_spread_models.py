"""Models whose weights are not where they run, or not as they run: on two devices, offloaded, packed in few bits.

Their traces are those of the plain model, and where kernels were wanted and could not, the trace gives the reason.
"""

from copy import copy, deepcopy
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from fused_models import FAMILIES
from made_up_devices import made_up_devices
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer
from transformers import FineGrainedFP8Config, core_model_loading
from transformers.integrations import finegrained_fp8

from moeviz.capture import corpus
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.models.load import load_model
from moeviz.capture.models.parameters import describe
from moeviz.capture.record import kernel_parity
from moeviz.capture.record.private_names import running_device
from moeviz.capture.recorders import CaptureJob, why_hooks
from moeviz.capture.routers.geometry import nearest_by_weights
from moeviz.capture.run.prompts import Batch
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.trace import trace
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.routing_trace import RoutingTrace

PROMPTS = ["To be", "12 + 7 = 19, und"]
REQUESTS = {
    "all that is recorded": {"max_new_tokens": 3, "outputs": True, "next_tokens": True},
    "muted": {"intervention": Mute({2: (1,)})},
}
by_both_ways = pytest.mark.parametrize("kernels", [False, True], ids=["hooks", "kernels"])
CPU = torch.device("cpu")


def halves(model, first, second):
    """Where its parts go: embeddings and the first layers on one, the rest on the other."""
    depth = model.config.num_hidden_layers
    parts = {f"model.{name}" for name, _ in model.model.named_children()} - {"model.layers"} | {"lm_head"}
    where = {part: first if part in ("model.embed_tokens", "model.rotary_emb") else second for part in parts}
    return where | {f"model.layers.{index}": first if index < depth // 2 else second for index in range(depth)}


def traced(model, kernels, **options):
    return trace(model, PROMPTS, tokenizer=tiny_tokenizer(), kernels=kernels, **options)


OFFLOADED = {
    "all in memory": lambda model, folder: cpu_offload(model, CPU),
    "all on disk": lambda model, folder: disk_offload(model, folder, CPU),
    "half on disk": lambda model, folder: dispatch_model(
        model, halves(model, "cpu", "disk"), main_device="cpu", offload_dir=folder
    ),
}


@by_both_ways
@pytest.mark.parametrize(
    ("where", "asked"),
    [*(("half on disk", asked) for asked in REQUESTS), ("all in memory", "muted"), ("all on disk", "muted")],
)
def test_the_trace_of_an_offloaded_model_is_that_of_the_plain_one(where, asked, kernels, tmp_path):
    """`generate` decodes with other code for the experts where a model does not say that it is on the CPU."""
    model = tiny_model(CONFIGS["deepseek_v3"])
    model.set_experts_implementation("eager")
    plain = traced(deepcopy(model), kernels, **REQUESTS[asked])
    OFFLOADED[where](model, str(tmp_path))
    assert any(values.is_meta for values in model.parameters())
    assert traced(model, kernels, **REQUESTS[asked]).equals(plain)


@pytest.mark.parametrize("family", ["deepseek_v3", "mixtral"])
def test_layers_that_stay_on_the_disk_are_traced_as_those_in_memory(family, tmp_path, monkeypatch):
    folder = str(tmp_path / family)
    tiny_model(CONFIGS[family]).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    maps, write = [], core_model_loading.offload_weight
    monkeypatch.setattr(
        core_model_loading,
        "offload_weight",
        lambda *given: maps.append(Path("/proc/self/maps").read_text()) or write(*given),
    )
    on_disk = load_model(folder, device_map="disk", offload_folder=tmp_path / "offloaded")
    assert maps and not any(folder in each for each in maps)  # else all of the checkpoint's pages stay in memory
    plain = load_model(folder)
    where = {name: values.is_meta for name, values in on_disk.model.named_parameters()}
    assert all(on == (".layers." in name) for name, on in where.items()) and any(where.values())
    one, other = (trace(model, PROMPTS, max_new_tokens=3) for model in (plain, on_disk))
    assert one.equals(other)
    forwards, texts = [], [("a", PROMPTS[0]), ("b", PROMPTS[1]), ("a", "noch ein Text")]
    on_disk.model.register_forward_pre_hook(lambda *_given: forwards.append(1))
    corpora = [trace_corpus(model, texts) for model in (plain, on_disk)]
    assert len(forwards) == 1 and (corpora[0].experts == corpora[1].experts).all()
    assert corpora[0].tokens.equals(corpora[1].tokens)
    monkeypatch.setattr(corpus, "AT_ONCE", 1)
    assert trace_corpus(on_disk, texts).tokens.equals(corpora[0].tokens) and len(forwards) == 4
    with pytest.raises(CaptureError, match="offload_folder"):
        load_model(folder, device_map="disk")


@by_both_ways
@pytest.mark.parametrize("asked", REQUESTS)
def test_the_trace_of_a_model_on_two_devices_is_that_of_one(asked, kernels):
    model = tiny_model(CONFIGS["deepseek_v3"])
    model.set_experts_implementation("eager")  # transformers' others ask whether the device is the CPU
    with made_up_devices() as (one, other):
        together = dispatch_model(deepcopy(model), {"": one})
        expected = traced(together, kernels, **REQUESTS[asked])
        spread = dispatch_model(model, halves(model, one, other))
        assert {str(values.device) for values in spread.parameters()} == {one, other}
        assert traced(spread, kernels, **REQUESTS[asked]).equals(expected)


@pytest.mark.parametrize("family", ["ernie4_5_moe", "lfm2_moe"])
def test_a_tied_matrix_on_two_devices_is_read_and_counted_once(family):
    model = tiny_model(FAMILIES[family])
    model.set_experts_implementation("eager")
    with made_up_devices() as (one, other):
        together = dispatch_model(deepcopy(model), {"": one})
        together.tie_weights()  # a made-up device takes them apart, and a GPU does not
        spread = dispatch_model(model, halves(model, one, other) | {"lm_head": one})
        assert spread.lm_head.weight is spread.model.embed_tokens.weight
        assert traced(spread, True).equals(traced(together, True))


@pytest.mark.parametrize("where", OFFLOADED)
def test_an_offloaded_model_has_as_many_parameters_as_the_plain_one(where, tmp_path):
    """accelerate puts an empty tensor into each of the two places of a tied matrix."""
    model = tiny_model(FAMILIES["ernie4_5_moe"])
    plain = describe(model, "").parameters
    OFFLOADED[where](model, str(tmp_path))
    assert plain.output_embedding == 0 and describe(model, "").parameters == plain


def test_what_mixes_made_up_devices_fails():
    """Else the test above could not."""
    with made_up_devices() as devices:
        here, there = (torch.ones(3, device=device) for device in devices)
        for one, other in ((here, there), (here, torch.ones(3))):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                torch.stack([one, other])
        assert torch.equal((here + there.to(here.device) * 2).cpu(), torch.full((3,), 3.0))
        here[:2] = 5
        assert here.tolist() == [5, 5, 1] and str(here[0].device) == devices[0]


def test_a_model_that_is_brought_to_a_gpu_runs_there():
    """All of its parameters are on "meta" between forwards, so they do not say so."""
    model = tiny_model(CONFIGS["mixtral"])
    assert running_device(model) == CPU
    cpu_offload(model, CPU)
    assert model.device.type == "meta" and running_device(model) == CPU
    job = MagicMock(CaptureJob, request=CaptureRequest(tuple(PROMPTS)))
    job.run.model, ids = model, torch.ones(1, 3, dtype=torch.long)
    job.run.batch = Batch(ids, ids)
    assert why_hooks(job) == ""
    for part in filter(lambda part: hasattr(part, "_hf_hook"), model.modules()):
        part._hf_hook = SimpleNamespace(execution_device="cuda:0")
    assert why_hooks(job) is None


def test_an_offloaded_model_is_probed_once(tmp_path, monkeypatch):
    """Each forward puts other parameters in the place of those that it brought, and a probe reads all weights again."""
    model, probes, probe = tiny_model(CONFIGS["mixtral"]), [], kernel_parity.probe
    disk_offload(model, str(tmp_path), CPU)
    monkeypatch.setattr(kernel_parity, "probe", lambda *given: probes.append(given) or probe(*given))
    traced(model, True)
    traced(model, True)
    assert len(probes) == 1
    gate = model.model.layers[0].mlp.gate
    gate._hf_hook = copy(gate._hf_hook)  # what brings other weights
    traced(model, True)
    assert len(probes) == 2


@pytest.mark.parametrize("kernels", [False, True])
def test_most_models_are_opened_on_disk_with_a_folder_for_what_they_run_in(kernels, tmp_path):
    model, folder = tiny_model(CONFIGS["mixtral"]), tmp_path / "model"
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    expected = trace(load_model(str(folder)), PROMPTS, kernels=kernels, outputs=True)
    with pytest.raises(ModelNotFound, match="provide an `offload_folder`"):
        load_model(str(folder), device_map={"": "disk"})
    opened = load_model(str(folder), device_map={"": "disk"}, offload_folder=tmp_path / "offloaded")
    assert {values.device.type for values in opened.model.parameters()} == {"meta"}
    assert trace(opened, PROMPTS, kernels=kernels, outputs=True).equals(expected)


class Packed(torch.nn.Linear):
    """A linear layer that holds two weights in a byte, as bitsandbytes' does in 4 bits: its scale is of each row."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        whole = linear.weight.detach()
        self.scale = torch.nn.Buffer(whole.abs().amax(1, keepdim=True) / 7)
        codes = (whole / self.scale).round().clamp(-7, 7).add(8).to(torch.uint8).flatten()
        self.weight = torch.nn.Parameter((codes[::2] | codes[1::2] << 4)[:, None], requires_grad=False)
        self.bias = linear.bias

    def forward(self, hidden):
        codes = torch.stack([self.weight & 15, self.weight >> 4], -1).view(self.out_features, -1)
        return torch.nn.functional.linear(hidden, (codes.float() - 8) * self.scale, self.bias)


def packed_model():
    """Each linear layer but the head packed, as transformers does it: routers and fused experts are none."""
    model = tiny_model(CONFIGS["mixtral"])
    for path, part in list(model.named_modules()):
        if type(part) is torch.nn.Linear and path != "lm_head":
            model.set_submodule(path, Packed(part))
    model.hf_quantizer = object()
    return model


def test_a_quantised_model_is_traced_by_kernels_and_counted_whole():
    model, plain = packed_model(), tiny_model(CONFIGS["mixtral"])
    heard, ran = (traced(model, kernels, max_new_tokens=3, outputs=True) for kernels in (False, True))
    assert ran.model.recorded_by == "kernels (plain torch)" and np.array_equal(heard.experts, ran.experts)
    np.testing.assert_allclose(heard.weights, ran.weights, rtol=1e-5)
    assert not np.array_equal(heard.logits, traced(plain, False, max_new_tokens=3).logits)
    assert heard.model.parameters == describe(plain, "").parameters == describe(model, "").parameters


def test_a_router_in_few_bits_is_listened_to_with_the_reason(caplog):
    """No quantiser of transformers packs one of its fused routers; a checkpoint of one's own may."""
    model = tiny_model(CONFIGS["mixtral"])
    for layer in model.model.layers:
        layer.mlp.gate.weight = torch.nn.Parameter((layer.mlp.gate.weight * 20).to(torch.int8), requires_grad=False)
        layer.mlp.gate.forward = in_full(layer.mlp.gate)
    got = traced(model, True)
    assert isinstance(got, RoutingTrace) and got.model.recorded_by.startswith("hooks (moeviz's kernels run none of")
    assert got.model.recorded_by.endswith("MixtralTopKRouter makes other logits than moeviz expects)")
    assert caplog.text.count("The routers are listened to instead.") == 1


def in_full(gate):
    """A router's forward on the numbers that its weights in few bits stand for."""

    def forward(hidden):
        logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), gate.weight.float() / 20)
        weights, experts = logits.softmax(-1).topk(gate.top_k)
        return logits, weights / weights.sum(-1, keepdim=True), experts

    return forward


def in_fp8(model):
    """With transformers' own layers for DeepSeek's format: numbers in 8 bits, and a scale for each 16 x 16 of them."""
    asked = FineGrainedFP8Config(weight_block_size=(16, 16))
    kept = [path for path, _ in model.named_modules() if path.endswith((".gate", "lm_head"))]
    whole = model.state_dict()
    finegrained_fp8.replace_with_fp8_linear(model, kept, asked)
    packer = finegrained_fp8.Fp8Quantize(SimpleNamespace(quantization_config=asked))
    packed = {path for path, values in model.state_dict().items() if values.dtype == torch.float8_e4m3fn}
    for path in packed:
        whole |= packer._quantize_one(path, whole[path])
    model.load_state_dict(whole, assign=True)
    model.hf_quantizer, model.config.quantization_config = object(), asked
    model.set_experts_implementation("eager")
    return model.eval()


def fp8_linear(hidden, weight, scales, block, bias=None, *_):
    """Compute the product as on a GPU, whose kernels alone transformers has for it."""
    whole = weight.float() * scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return torch.nn.functional.linear(hidden, whole.to(hidden.dtype), bias)


class WithoutWeight(torch.nn.Module):
    """A linear layer in GPTQ's and AWQ's shape: integers, scales and no `weight`."""

    def __init__(self, whole):
        super().__init__()
        self.scales = torch.nn.Buffer(whole.abs().amax(1, keepdim=True) / 7)
        self.qweight = torch.nn.Buffer((whole / self.scales).round().to(torch.int32))

    def forward(self, hidden):
        return torch.nn.functional.linear(hidden, self.qweight * self.scales)


class Expert(torch.nn.Module):
    def __init__(self, gate_up, down):
        super().__init__()
        self.gate_proj, self.up_proj = map(WithoutWeight, gate_up.chunk(2))
        self.down_proj = WithoutWeight(down)

    def forward(self, hidden):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Experts(torch.nn.ModuleList):
    """Experts taken apart, as loaders of GPTQ do it: their layers are packed one by one."""

    def forward(self, hidden, ids, weights):
        out = torch.zeros_like(hidden)
        for expert, run in enumerate(self):
            rows, slots = torch.where(ids == expert)
            out.index_add_(0, rows, run(hidden[rows]) * weights[rows, slots, None])
        return out


@torch.no_grad()
def in_gptq(model):
    for layer in model.model.layers:
        both = zip(layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj, strict=True)
        layer.mlp.experts = Experts(Expert(*weights) for weights in both)
    model.hf_quantizer = object()
    return model


@pytest.mark.parametrize("packed", [in_fp8, in_gptq])
def test_packed_experts_are_counted_and_recorded_and_not_compared(packed, monkeypatch, caplog):
    monkeypatch.setattr(finegrained_fp8, "fp8_linear", fp8_linear)
    caplog.set_level("INFO")
    plain = tiny_model(CONFIGS["mixtral"])
    plain.set_experts_implementation("eager")
    model = packed(deepcopy(plain))
    assert describe(model, "").parameters == describe(plain, "").parameters
    heard, ran = (traced(model, kernels, max_new_tokens=3, outputs=True) for kernels in (False, True))
    assert ran.model.recorded_by == "kernels (plain torch)" and np.array_equal(heard.experts, ran.experts)
    assert ("FP8Experts failed in moeviz's kernels" in caplog.text) == (packed is in_fp8)
    whole = traced(plain, False, max_new_tokens=3, outputs=True)
    same = (heard.experts == whole.experts).all(-1)
    assert same.mean() > 0.8 and not np.array_equal(heard.outputs.norm, whole.outputs.norm)
    np.testing.assert_allclose(heard.outputs.norm[same], whole.outputs.norm[same], rtol=0.3)
    assert (nearest_by_weights(plain)["twin"] >= 0).all() and (nearest_by_weights(model)["twin"] == -1).all()
