"""Record one sentence in the small models of the story: python -m benchmarks.one_sentence writes what ships.

From the embedded model: the inputs of each layer's experts, the rows of the router, and the outputs of the two chosen
experts; and the scores of 540 tokens of the evaluation texts. From its two siblings: the experts of the sentence.
It ends with an error if what is recorded does not give back the output of a layer.
"""

import json

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from moeviz.embedded import embedded_path
from moeviz.embedded.one_sentence import FILE, SENTENCE, TOP_K
from moeviz.embedded.own_models import FINE, NATURAL, model_folder

PER_TEXT, LONGEST = 9, 160  # tokens that are drawn of each evaluation text, of its first
EVALUATION = embedded_path() / "evaluation.jsonl"


def main() -> None:
    """Record the sentence and write the file."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(embedded_path())
    ids = tokenizer(SENTENCE, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(embedded_path(), dtype=torch.float32).eval()
    arrays = in_full(model, ids) | of_many(model, tokenizer)
    for name, folder in (("natural", model_folder(NATURAL)), ("fine", model_folder(FINE))):
        arrays |= {f"{name}_{part}": values for part, values in chosen(folder, ids).items()}
    arrays["tokens"] = np.array([tokenizer.decode([each]) for each in ids[0].tolist()])
    np.savez_compressed(FILE, **arrays)
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


@torch.no_grad()
def in_full(model: nn.Module, ids: Tensor) -> dict[str, np.ndarray]:
    """Record all numbers of the sentence in the embedded model."""
    layers = model.model.layers
    inputs, outputs = watched([block_of(layer) for layer in layers], model, ids)
    residuals, _ = watched([layer.post_attention_layernorm for layer in layers], model, ids)
    answers = []
    for layer, x, y in zip(layers, inputs, outputs, strict=True):
        block = block_of(layer)
        weights, experts = (x @ block.gate.weight.T).softmax(-1).topk(TOP_K)
        weights = weights / weights.sum(-1, keepdim=True)
        each = torch.stack(
            [torch.stack([answer(block, e, row) for e in of]) for row, of in zip(x, experts.tolist(), strict=True)]
        )
        off = float(((weights[..., None] * each).sum(1) - y).abs().max())
        if off > 1e-4:
            raise SystemExit(f"The answers of a layer differ from the model's by {off:g}; at most 0.0001 is rounding.")
        answers.append(each)
    router = torch.stack([block_of(layer).gate.weight for layer in layers])
    half = {"x": torch.stack(inputs), "residual": torch.stack(residuals), "answers": torch.stack(answers)}
    return {name: values.numpy().astype(np.float16) for name, values in half.items()} | {"router": router.numpy()}


@torch.no_grad()
def of_many(model: nn.Module, tokenizer: AutoTokenizer) -> dict[str, np.ndarray]:
    """Record the router's scores of some tokens of each evaluation text."""
    draws, scores, texts = np.random.default_rng(0), [], []
    for line in EVALUATION.read_text("utf-8").splitlines():
        ids = tokenizer(json.loads(line)["text"], return_tensors="pt", truncation=True, max_length=LONGEST).input_ids
        inputs, _ = watched([block_of(layer) for layer in model.model.layers], model, ids)
        places = np.sort(draws.choice(np.arange(1, ids.shape[1]), PER_TEXT, replace=False))
        each = [x[places] @ block_of(layer).gate.weight.T for x, layer in zip(inputs, model.model.layers, strict=True)]
        scores.append(torch.stack(each))
        texts += [tokenizer.decode([ids[0, place]]) for place in places]
    return {"scores": torch.cat(scores, 1).numpy().astype(np.float16), "texts": np.array(texts)}


@torch.no_grad()
def chosen(folder: str, ids: Tensor) -> dict[str, np.ndarray]:
    """Record a sibling's experts for the sentence, layer by layer, and those by its scores without a bias."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    blocks = [block for layer in model.model.layers if hasattr(block := block_of(layer), "gate")]
    inputs, _ = watched(blocks, model, ids)
    experts, weights, alone = [], [], []
    for block, x in zip(blocks, inputs, strict=True):
        logits, bias = x @ block.gate.weight.T, getattr(block.gate, "e_score_correction_bias", None)
        scores = logits.softmax(-1) if bias is None else logits.sigmoid()
        top = (scores if bias is None else scores + bias).topk(model.config.num_experts_per_tok).indices
        top = top.gather(1, scores.gather(1, top).argsort(descending=True))
        weight = scores.gather(1, top)
        experts.append(top)
        weights.append(weight / weight.sum(-1, keepdim=True))
        alone.append((top[:, :, None] == scores.topk(top.shape[1]).indices[:, None]).any(-1))
    return {
        "experts": torch.stack(experts).numpy().astype(np.int8),
        "weights": torch.stack(weights).numpy().astype(np.float16),
        "alone": torch.stack(alone).numpy(),
    }


def block_of(layer: nn.Module) -> nn.Module:
    """Return the feed-forward block of a layer, under either of its names."""
    return layer.mlp if hasattr(layer, "mlp") else layer.block_sparse_moe


def watched(modules: list[nn.Module], model: nn.Module, ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Run the model, and return what goes into each of these modules and what comes out, token by token."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> None:
        made = out[0] if isinstance(out, tuple) else out
        seen[module] = tuple(each.detach().reshape(-1, each.shape[-1]) for each in (given[0], made))

    hooks = [module.register_forward_hook(keep) for module in modules]
    with torch.no_grad():
        model(ids)
    for hook in hooks:
        hook.remove()
    return tuple([seen[module][side] for module in modules] for side in (0, 1))


def answer(block: nn.Module, expert: int, x: Tensor) -> Tensor:
    """Return the answer of one expert: W₂ (silu(W₁ x) · W₃ x)."""
    gate, up = functional.linear(x, block.experts.gate_up_proj[expert]).chunk(2, -1)
    return functional.linear(functional.silu(gate) * up, block.experts.down_proj[expert])


if __name__ == "__main__":
    main()
