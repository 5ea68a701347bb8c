"""Twelve children of the embedded model, made by hand: is the word of `moeviz lineage` right for each of their experts?

    python -m tests.attack.lineage_of_twelve

A child is right if each expert's word is the one that it was made for, and if nothing is called cut but what was cut.
Then children of a dense model, whose MLP each expert is made of: a copy, one with half of its neurons drawn anew (Drop-
Upcycling, arXiv 2502.19261), one with more weight, and one of a stranger.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "support"))
from made_children import EXPERTS, Expert, in_another_order, mixed, noisy, of_the_model, saved

import moeviz

Layers = list[list[Expert]]


def in_4_bits(expert: Expert) -> Expert:
    """Symmetric, a scale for each 32 numbers."""

    def rounded(values: torch.Tensor) -> torch.Tensor:
        blocks = values.reshape(-1, 32)
        scale = blocks.abs().amax(1, keepdim=True) / 7
        return ((blocks / scale).round() * scale).reshape(values.shape)

    return {of: rounded(values) for of, values in expert.items()}


def at(layers: Layers, layer: int, number: int, expert: Expert) -> Layers:
    made = [[*experts] for experts in layers]
    made[layer][number] = expert
    return made


def swapped_layers(base: Layers) -> Layers:
    return [base[layer] for layer in (0, 2, 1, 3, 5, 4)]


def swapped_between_layers(base: Layers) -> Layers:
    return at(at(base, 1, 3, base[4][6]), 4, 6, base[1][3])


def spliced(base: Layers) -> Layers:
    return at(base, 2, 0, base[2][0] | {"w2": base[2][1]["w2"]})


def spliced_over_layers(base: Layers) -> Layers:
    return at(base, 2, 0, base[4][5] | {"w3": base[0][7]["w3"]})


CHILDREN: dict[str, tuple[Callable[[Layers], Layers], dict[str, int]]] = {
    "as it was": (lambda base: base, {"kept": 48}),
    "every other expert with its neurons permuted": (
        lambda base: [[in_another_order(e, n) if n % 2 else e for n, e in enumerate(experts)] for experts in base],
        {"kept": 24, "moved": 24},
    ),
    "layers 1 and 2, 4 and 5 swapped": (swapped_layers, {"kept": 16, "moved": 32}),
    "two experts swapped between layers 1 and 4": (swapped_between_layers, {"kept": 46, "moved": 2}),
    "gate and up of one expert, down of another": (spliced, {"kept": 47, "spliced": 1, "cut": 0}),
    "matrices of experts of two other layers": (spliced_over_layers, {"kept": 47, "spliced": 1, "cut": 1}),
    "expert 5 cut from each layer": (lambda base: [e[:5] + e[6:] for e in base], {"kept": 30, "moved": 12, "cut": 6}),
    "experts 6 and 7 merged": (
        lambda base: [[*e[:6], mixed((0.5, e[6]), (0.5, e[7]))] for e in base], {"kept": 36, "averaged": 6},
    ),
    "upcycled from expert 3": (
        lambda base: [[noisy(e[3], 0.05, n) for n in range(EXPERTS)] for e in base], {"copied": 48, "cut": 42},
    ),
    "rounded to 4 bits": (lambda base: [[*map(in_4_bits, e)] for e in base], {"tuned": 48}),
    "one expert permuted and noisy": (
        lambda base: at(base, 2, 5, noisy(in_another_order(base[2][5], 1), 0.2)), {"kept": 47, "unrelated": 1},
    ),
    "of noise": (
        lambda base: [[noisy(e, 300.0, n) for n, e in enumerate(experts)] for experts in base], {"unrelated": 48},
    ),
}  # fmt: skip


def drawn_anew(expert: Expert, seed: int) -> Expert:
    """Half of the neurons, with the spread of the others."""
    new, out = noisy(expert, 300.0, seed), torch.rand(256, generator=torch.Generator().manual_seed(seed)) < 0.5
    scaled = {of: values / values.std() * expert[of].std() for of, values in new.items()}
    mask = {"w1": out[:, None], "w2": out[None], "w3": out[:, None]}
    return {of: torch.where(mask[of], scaled[of], values) for of, values in expert.items()}


OF_DENSE: dict[str, tuple[Callable[[Expert, int], Expert], str]] = {
    "copies of an MLP": (lambda mlp, seed: noisy(mlp, 0.01, seed), "copied"),
    "half of each MLP drawn anew": (drawn_anew, "copied"),
    "an MLP with twice the weight": (lambda mlp, seed: {of: 2 * values for of, values in mlp.items()}, "copied"),
    "nothing of an MLP": (lambda mlp, seed: noisy(mlp, 300.0, seed), "unrelated"),
}


def dense(base: Layers, folder: Path) -> str:
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    mlps = {
        f"model.layers.{layer}.mlp.{names[part]}.weight": values.clone()
        for layer, experts in enumerate(base)
        for part, values in experts[3].items()
    }
    save_file(mlps, folder / "dense.safetensors")
    return str(folder / "dense.safetensors")


def main() -> int:
    base, wrong = of_the_model(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = [(what, "embedded", make(base), expected) for what, (make, expected) in CHILDREN.items()]
        for what, (make, word) in OF_DENSE.items():
            made = [[make(experts[3], seed) for seed in range(4)] for experts in base]
            children.append((what, dense(base, folder), made, {word: 24}))
        for number, (what, source, made, expected) in enumerate(children):
            found = moeviz.lineage(source, saved(folder / str(number), made, torch.float32))
            words = dict(Counter(found.table["what"]))
            right = words == {word: count for word, count in expected.items() if count}
            wrong += not right
            print(f"{'right' if right else f'WRONG, expected {expected}'}: {what}: {words}", flush=True)
    print(f"{len(children)} children, {wrong} with a wrong word.")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
