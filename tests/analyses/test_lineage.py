"""Children made of models on purpose: the lineage says of each expert what was done to it, and of strangers nothing."""

import json
import tracemalloc
from pathlib import Path

import gguf_models
import numpy as np
import pytest
import torch
from fused_models import FAMILIES
from gguf_models import of_transformers, write_gguf, write_model
from made_children import EXPERTS, LAYERS, Expert, in_another_order, mixed, noisy, of_the_model, saved
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, DENSE, tiny_model

import moeviz
from moeviz.analyses.lineage import AVERAGED, COPIED, CUT, KEPT, MOVED, RELATED, SPLICED, TUNED, UNRELATED, ZEROED
from moeviz.analyses.number_formats import FORMATS
from moeviz.cli.main import main
from moeviz.embedded import embedded_path
from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.exports import write_trace
from moeviz.metrics.expert_table import expert_table
from moeviz.metrics.lineage import WHAT, expert_fates, lineage_pairs

RESULTS = ("layer", "expert", "what", "base_layer", "base_experts")


@pytest.fixture(scope="module")
def layers() -> list[list[Expert]]:
    """The experts of the embedded model, by layer and number."""
    return of_the_model()


def found(base: str, child: str) -> list[tuple]:
    return list(moeviz.lineage(base, child).table[[*RESULTS]].itertuples(index=False, name=None))


def rows_of(*rows: tuple) -> list[tuple]:
    """The rows of every layer: expert, what, base_experts."""
    return [(layer, number, what, layer, of) for layer in range(LAYERS) for number, what, of in rows]


def test_experts_in_another_order_are_found_with_their_numbers(layers, tmp_path):
    order = [3, 1, 0, 7, 5, 4, 2, 6]
    child = saved(tmp_path / "child", [[experts[one] for one in order] for experts in layers])
    expected = [(at, "kept" if at == one else "moved", (one,)) for at, one in enumerate(order)]
    assert found("embedded", child) == rows_of(*expected)


def test_experts_that_were_cut_are_named_and_the_rest_is_kept(layers, tmp_path):
    rest = [0, 1, 3, 4, 6, 7]
    child = saved(tmp_path / "child", [[experts[one] for one in rest] for experts in layers])
    lineage = moeviz.lineage("embedded", child)
    result = list(lineage.table[[*RESULTS]].itertuples(index=False, name=None))
    expected = [(at, "kept" if at == one else "moved", (one,)) for at, one in enumerate(rest)]
    assert result[: 6 * LAYERS] == rows_of(*expected)
    assert result[6 * LAYERS :] == [(layer, -1, "cut", layer, (one,)) for layer in range(LAYERS) for one in (2, 5)]
    assert lineage.table["difference"][: 6 * LAYERS].max() < 1e-6
    assert lineage.says[0] == (
        f"36 experts of {child}, against the experts of embedded: 12 kept, 24 moved; 12 of embedded’s were cut."
    )


def test_merged_experts_are_taken_apart_whatever_their_weights(layers, tmp_path):
    merges = [((0.5, 0), (0.5, 1)), ((0.95, 2), (0.05, 3)), ((0.3, 4), (0.3, 5), (0.4, 6))]
    made = [[mixed(*((part, experts[one]) for part, one in merge)) for merge in merges] for experts in layers]
    child = saved(tmp_path / "child", made, torch.float32)
    table = moeviz.lineage("embedded", child).table
    merged = table[table["what"] == "averaged"]
    assert len(merged) == 3 * LAYERS
    for row, merge in zip(merged.itertuples(), merges * LAYERS, strict=True):
        parts = dict(zip(row.base_experts, row.parts, strict=True))
        assert parts == pytest.approx({one: part for part, one in merge}, abs=1e-3)
        assert row.similarity > 0.99999 and row.difference < 0.005  # bfloat16 of the base, float32 of the child
    assert table.loc[table["what"] == "cut", "base_experts"].tolist() == [(7,)] * LAYERS


def test_copies_with_noise_have_one_source_and_more_noise_leaves_them_theirs(layers, tmp_path):
    made = [
        [*experts, *(noisy(expert, (0.02, 0.5)[at % 2], at) for at, expert in enumerate(experts))] for experts in layers
    ]
    child = saved(tmp_path / "child", made)
    kept = [(one, "kept", (one,)) for one in range(EXPERTS)]
    assert found("embedded", child) == rows_of(*kept, *((EXPERTS + one, "copied", (one,)) for one in range(EXPERTS)))
    upcycled = saved(tmp_path / "upcycled", [[noisy(experts[3], 0.05, at) for at in range(8)] for experts in layers])
    what = moeviz.lineage("embedded", upcycled).table["what"].value_counts().to_dict()
    assert what == {"copied": 48, "cut": 42}
    tuned = saved(tmp_path / "tuned", [[noisy(expert, 0.3) for expert in experts[::-1]] for experts in layers])
    assert found("embedded", tuned) == rows_of(*((at, "tuned", (7 - at,)) for at in range(EXPERTS)))


def test_a_dense_models_mlp_became_all_experts(layers, tmp_path):
    """The other way round, its experts' mean became one MLP."""
    dense, names = tmp_path / "dense.safetensors", {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    mlps = {
        f"model.layers.{layer}.mlp.{names[part]}.weight": values.contiguous()
        for layer, experts in enumerate(layers)
        for part, values in experts[3].items()
    }
    save_file(mlps, dense)
    new = torch.rand(256, generator=torch.Generator().manual_seed(0)) < 0.5  # Drop-Upcycling: half of the neurons
    out = {"w1": new[:, None], "w2": new[None], "w3": new[:, None]}

    def drawn_anew(mlp: Expert) -> Expert:
        drawn = {of: torch.randn(values.shape) * values.std() for of, values in mlp.items()}
        return {of: torch.where(out[of], drawn[of], values) for of, values in mlp.items()}

    made = [
        [noisy(mlp, 0.1), noisy(mlp, 0.01, 1), mixed((2.0, mlp)), drawn_anew(mlp)] for mlp in (e[3] for e in layers)
    ]
    child = saved(tmp_path / "child", made)
    assert found(str(dense), child) == rows_of(*((number, "copied", (-1,)) for number in range(4)))
    says = moeviz.lineage(str(dense), child).says[0]
    assert says == f"24 experts of {child}, against the MLPs of {dense}: 24 copied."
    back = moeviz.lineage("embedded", str(dense)).table
    assert back.loc[back["expert"] == -1, "base_experts"].head(LAYERS).tolist() == [(3,)] * LAYERS
    with pytest.raises(CaptureError, match="experts"):
        moeviz.lineage(str(dense), str(dense))


def int8_of_compressed_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    made = {}
    for name, values in tensors.items():
        scale = values.float().abs().amax(1, keepdim=True) / 127
        made |= {name: (values.float() / scale).round().to(torch.int8), f"{name}_scale": scale.bfloat16()}
    return made


def int8_with_zeros_in_groups(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Asymmetric, with one scale for 64 columns."""
    made = {}
    for name, values in tensors.items():
        groups = values.float().unflatten(1, (-1, 64))
        low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
        scale = (high - low) / 255
        zero = (-128 - low / scale).round()
        whole = (groups / scale + zero).round().clamp(-128, 127).flatten(1).to(torch.int8)
        made |= {name: whole, f"{name}_scale": scale[..., 0], f"{name}_zero_point": zero[..., 0].to(torch.int8)}
    return made


def int8_of_bitsandbytes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    made = {}
    for name, values in tensors.items():
        greatest = values.float().abs().amax(1)
        whole = (values.float() / greatest[:, None] * 127).round().to(torch.int8)
        made |= {name: whole, name.removesuffix("weight") + "SCB": greatest}
    return made


def float8_of_deepseek(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Blocks of 96 x 96, which divide no matrix of 256 x 256."""
    made = {}
    for name, values in tensors.items():
        padded = torch.nn.functional.pad(values.float(), (0, 32, 0, 32)).unflatten(0, (3, 96)).unflatten(2, (3, 96))
        scale = padded.abs().amax((1, 3)) / 448
        whole = scale.repeat_interleave(96, 0).repeat_interleave(96, 1)[:256, :256]
        made |= {name: (values.float() / whole).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}
    return made


@pytest.mark.parametrize(
    "quantise", [int8_of_compressed_tensors, int8_with_zeros_in_groups, int8_of_bitsandbytes, float8_of_deepseek]
)
def test_quantised_experts_are_the_same_but_for_rounding(quantise, layers, tmp_path):
    order = [7, 6, 5, 4, 3, 2, 1, 0]
    config = {"quantization_config": {"weight_block_size": [96, 96]}}
    child = saved(tmp_path / "child", [[experts[one] for one in order] for experts in layers], config=config)
    path = tmp_path / "child" / "model.safetensors"
    save_file(quantise(load_file(path)), path)
    lineage = moeviz.lineage("embedded", child)
    assert set(zip(lineage.table["expert"], lineage.table["what"], lineage.table["base_experts"], strict=True)) == {
        (at, "moved", (one,)) for at, one in enumerate(order)
    }
    assert 0.001 < lineage.table["difference"].median() < 0.03
    assert any("so that “kept” allows for rounding" in sentence for sentence in lineage.says)


def q8_0(values: np.ndarray, _kind: str) -> bytes:
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    whole = np.rint(blocks / np.where(scale > 0, scale, 1)).astype(np.int8)
    return np.concatenate([scale.astype(np.float16).view(np.uint8), whole.view(np.uint8)], 1).tobytes()


def test_a_gguf_file_in_8_bits_is_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_models, "quantised", q8_0)
    child = str(write_model(of_transformers("embedded"), tmp_path / "child.gguf", "Q8_0"))
    lineage = moeviz.lineage("embedded", child)
    assert lineage.formats == ("bfloat16", "Q8_0")
    assert lineage.table["what"].tolist() == ["kept"] * 48 and lineage.table["similarity"].min() > 0.9999
    assert found(child, "embedded") == rows_of(*((one, "kept", (one,)) for one in range(EXPERTS)))


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe", "glm4_moe"])
def test_fused_and_turned_layouts_hold_the_same_experts(name, tmp_path):
    """As transformers saves them, and in GGUF where a writer is here; two experts changed places, and one was cut."""
    model = tiny_model(FAMILIES[name])
    model.save_pretrained(tmp_path / "base")
    experts = [
        module for module in model.modules() if hasattr(module, "gate_up_proj") and module.gate_up_proj.ndim == 3
    ]
    with torch.no_grad():
        for module in experts:
            for values in module.parameters():
                values[[0, 1]] = values[[1, 0]].clone()
                values[2] = values[3]
    model.save_pretrained(tmp_path / "child", max_shard_size="60KB")
    assert len([*(tmp_path / "child").glob("*.safetensors")]) > 1
    children = [str(tmp_path / "child")]
    if name in CONFIGS:
        children.append(str(write_model(model, tmp_path / "child.gguf")))
    for child in children:
        table = moeviz.lineage(str(tmp_path / "base"), child).table
        for _, rows in table.groupby("base_layer"):
            what = dict(zip(rows["expert"], zip(rows["what"], rows["base_experts"], strict=True), strict=True))
            assert what.pop(-1) == ("cut", (2,))
            swapped = {0: ("moved", (1,)), 1: ("moved", (0,)), 2: ("copied", (3,))}
            assert what == {number: swapped.get(number, ("kept", (number,))) for number in range(len(what))}
    assert table["base_layer"].nunique() == len(experts)


def test_strangers_have_no_match(layers, tmp_path):
    """A sibling that was trained from the same random start, numbers at random, and weights shuffled within experts."""
    made = torch.Generator().manual_seed(0)
    rows = torch.randperm(256, generator=made)
    shuffled = [[{name: values[rows] for name, values in expert.items()} for expert in experts] for experts in layers]
    strangers = [
        "embedded-natural",
        saved(tmp_path / "random", [[noisy(one, 300.0, at) for at, one in enumerate(experts)] for experts in layers]),
        saved(tmp_path / "shuffled", shuffled),
    ]
    for stranger in strangers:
        lineage = moeviz.lineage("embedded", stranger)
        assert lineage.table["what"].tolist() == ["unrelated"] * 48
        assert lineage.says[0] == f"None of the 48 experts of {stranger} comes from embedded, as far as weights say."
        assert lineage.table["similarity"].max() < lineage.threshold


def test_neurons_in_another_order_and_experts_of_another_layer_are_moved_and_nothing_is_cut(layers, tmp_path):
    turned = [[in_another_order(e, at) if at % 2 else e for at, e in enumerate(experts)] for experts in layers]
    table = moeviz.lineage("embedded", saved(tmp_path / "turned", turned)).table
    assert table["what"].tolist() == ["kept", "moved"] * 24
    assert [of for (of,) in table["base_experts"]] == table["expert"].tolist()
    swapped = [[*experts] for experts in layers]
    swapped[1][3], swapped[4][6] = layers[4][6], layers[1][3]
    table = moeviz.lineage("embedded", saved(tmp_path / "swapped", swapped)).table
    moved = table[table["what"] == "moved"]
    assert moved[["layer", "expert", "base_layer"]].to_numpy().tolist() == [[1, 3, 4], [4, 6, 1]]
    assert moved["base_experts"].tolist() == [(6,), (3,)] and (table["what"] == "kept").sum() == 46


def test_a_splice_is_taken_apart_by_its_matrices_and_no_source_of_one_is_cut(layers, tmp_path):
    """Of one layer, and of two others; the control is a mean of both, which is no splice."""
    child = [[*experts] for experts in layers]
    child[2][0] = layers[2][0] | {"w2": layers[2][1]["w2"]}
    child[3][6] = layers[4][5] | {"w3": layers[0][7]["w3"]}
    child[5][0] = mixed((0.5, layers[5][0]), (0.5, layers[5][1]))
    lineage = moeviz.lineage("embedded", saved(tmp_path / "child", child, torch.float32))
    rows = lineage.table[lineage.table["what"] != KEPT][[*RESULTS]].itertuples(index=False, name=None)
    assert [*rows] == [
        (2, 0, SPLICED, 2, (0, 1)),
        (3, 6, SPLICED, 4, (5,)),
        (5, 0, AVERAGED, 5, (0, 1)),
        (3, -1, CUT, 3, (6,)),
    ]
    assert lineage.splices == {
        (2, 0): {"down": (2, 1), "gate": (2, 0), "up": (2, 0)},
        (3, 6): {"down": (4, 5), "gate": (4, 5), "up": (0, 7)},
    }
    alone = [[layers[2][0] | {"w2": layers[2][1]["w2"]}], *layers[:2], *layers[3:]]
    table = moeviz.lineage("embedded", saved(tmp_path / "alone", alone, torch.float32)).table
    assert {(2, 0), (2, 1)}.isdisjoint(
        (layer, of[0]) for layer, of in table.loc[table["what"] == CUT, ["base_layer", "base_experts"]].to_numpy()
    )


def test_an_expert_is_not_called_cut_where_one_without_a_match_may_be_it(layers, tmp_path):
    """Neurons in another order, with noise: what is left says so. The control is the same layer without that expert."""
    child = [[*experts] for experts in layers]
    child[2][5] = noisy(in_another_order(layers[2][5], 1), 0.2)
    lineage = moeviz.lineage("embedded", saved(tmp_path / "child", child))
    assert lineage.table["what"].value_counts().to_dict() == {"kept": 47, "unrelated": 1}
    assert "not known whether any were cut" in lineage.says[-1]
    child[2].pop(5)
    assert "cut" in moeviz.lineage("embedded", saved(tmp_path / "cut", child)).table["what"].tolist()


def test_experts_of_one_origin_are_not_given_to_any_of_the_others(layers, tmp_path):
    """Both models were upcycled from one MLP and then trained apart: each expert is as near to all of the other's."""
    for name, seed in (("base", 0), ("child", 100)):
        made = [[noisy(experts[0], 0.3, seed + at) for at in range(4)] for experts in layers[:2]]
        saved(tmp_path / name, made)
    table = moeviz.lineage(str(tmp_path / "base"), str(tmp_path / "child")).table
    assert table["what"].tolist() == ["related"] * 8 and table["similarity"].min() > 0.9


def test_of_experts_that_are_alike_the_one_of_the_same_number_is_the_source(layers, tmp_path):
    base = saved(tmp_path / "base", [[experts[0]] * 4 for experts in layers])
    assert found(base, base) == rows_of(*((one, "kept", (one,)) for one in range(4)))


def test_a_layer_that_was_dropped_or_repeated_is_found(layers, tmp_path):
    order = [0, 1, 3, 3, 4, 5]
    child = saved(tmp_path / "child", [layers[one] for one in order])
    lineage = moeviz.lineage("embedded", child)
    assert lineage.layers == dict(enumerate(order))
    what = lineage.table.groupby(["layer", "base_layer"])["what"].unique().map(list).to_dict()
    assert what == {(0, 0): ["kept"], (1, 1): ["kept"], (2, 3): ["copied"], (3, 3): ["kept"]} | {
        (4, 4): ["kept"],
        (5, 5): ["kept"],
        (-1, 2): ["cut"],
    }
    assert lineage.says[2:] == [
        f"Layers have other numbers in {child} than in embedded: 2 is 3.",
        "Of embedded, layer 2 went whole.",
    ]
    one = saved(tmp_path / "one", layers[4:5])
    assert moeviz.lineage("embedded", one).layers == {0: 4}


def test_of_two_stacks_of_layers_the_same_one_is_compared_and_the_other_is_named(layers, tmp_path):
    """As an encoder and a decoder, or layers that predict further tokens, whose numbers begin anew."""
    for name, stacks in (("base", ("encoder", "decoder")), ("child", ("decoder", "encoder"))):
        tensors = {
            f"{stack}.layers.{layer}.mlp.experts.{number}.{part}.weight": values + (stack == "decoder")
            for stack in stacks
            for layer, experts in enumerate(layers[:2])
            for number, expert in enumerate(experts[: 3 if (name, stack) == ("child", "decoder") else 4])
            for part, values in expert.items()
        }
        save_file(tensors, tmp_path / f"{name}.safetensors")
    names = [str(tmp_path / f"{name}.safetensors") for name in ("base", "child")]
    lineage = moeviz.lineage(*names)
    assert lineage.table["what"].tolist() == ["kept"] * 6 + ["cut"] * 2
    assert lineage.says[2:] == [f"Not compared: the experts of {name} in encoder.layers." for name in names]


def test_experts_of_zeros_are_said_to_be(layers, tmp_path):
    made = [[mixed((0.0, expert)) if at == 2 else expert for at, expert in enumerate(experts)] for experts in layers]
    table = moeviz.lineage("embedded", saved(tmp_path / "child", made)).table
    assert table.loc[table["what"] == "zeroed", "expert"].tolist() == [2] * LAYERS
    assert table.loc[table["what"] == "cut", "base_experts"].tolist() == [(2,)] * LAYERS


def test_no_more_than_a_few_matrices_are_in_memory(tmp_path):
    """48 experts of 3 matrices: 2.3 MB each in memory, 9.4 MB of experts a layer."""
    tracemalloc.start()
    moeviz.lineage("embedded", "embedded")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 2**20


def test_progress_counts_every_expert_and_can_stop_it(layers, tmp_path):
    told = []
    moeviz.lineage("embedded", "embedded", progress=lambda *at: told.append(at))
    assert told == [(at, 144) for at in range(1, 145)]

    def stop(done: int, _total: int) -> None:
        if done == 100:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        moeviz.lineage("embedded", "embedded", progress=stop)


def cut_off(path: Path) -> str:
    (path / "cut.safetensors").write_bytes((embedded_path() / "model.safetensors").read_bytes()[:100_000])
    return str(path / "cut.safetensors")


def empty(path: Path) -> str:
    (path / "empty.safetensors").touch()
    return str(path / "empty.safetensors")


def without_a_shard(path: Path) -> str:
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    return str(path)


def damaged_index(path: Path) -> str:
    (path / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    return str(path)


def pickled(path: Path) -> str:
    (path / "pytorch_model.bin").write_bytes(b"\x80")
    return str(path)


def of_nothing(path: Path) -> str:
    save_file({"a.weight": torch.zeros(2, 2)}, path / "model.safetensors")
    return str(path)


def expert_with(path: Path, values: torch.Tensor, **more: torch.Tensor) -> str:
    name = "model.layers.0.mlp.experts.0.{}_proj.weight"
    tensors = {name.format(part): values.clone() for part in ("gate", "up", "down")} | more
    save_file(tensors, path / "model.safetensors")
    return str(path)


SCALE = "model.layers.0.mlp.experts.0.up_proj.weight_scale"
REFUSED = {
    "cut off": (cut_off, r"'cut.safetensors' cannot be read as safetensors: .*Was it cut off"),
    "empty": (empty, r"'empty.safetensors' cannot be read as safetensors: "),
    "no folder": (
        lambda path: str(path / "gone"),
        r"There is no checkpoint at .*gone' on this machine\. Give a folder",
    ),
    "an empty folder": (str, r"The folder .* has no \.safetensors file\. Give the folder"),
    "a missing shard": (without_a_shard, r"lacks 'gone\.safetensors', which its index names"),
    "a damaged index": (damaged_index, r"The model\.safetensors\.index\.json of .* was damaged"),
    "pickled": (pickled, r"holds pickled weights, which can run code when they are read"),
    "a pickled file": (lambda path: pickled(path) + "/pytorch_model.bin", r"pytorch_model\.bin' holds pickled weights"),
    "neither experts nor MLPs": (of_nothing, r"has neither experts nor MLPs by any name that moeviz knows, among 1 t"),
    "no numbers": (lambda path: expert_with(path, torch.zeros(0, 256)), r"has the shape 0 x 256, and 2 axes of one"),
    "three axes": (lambda path: expert_with(path, torch.zeros(1, 2, 2)), r"has the shape 1 x 2 x 2, and 2 axes"),
    "another hidden size": (
        lambda path: expert_with(path, torch.ones(512, 512)),
        r"'embedded' write vectors of 256 numbers, and those of .* of 512: neither",
    ),
    "another width": (
        lambda path: expert_with(path, torch.ones(256, 512)),
        r"of 'embedded' has the matrices down 256 x 256, gate 256 x 256, up 256 x 256, and one of .* gate 256 x 512",
    ),
    "int8 without scales": (
        lambda path: expert_with(path, torch.ones(256, 256, dtype=torch.int8)),
        r"are stored as int8 without scales, which moeviz does not read\. Read are float64, float32, float16,",
    ),
    "scales of another shape": (
        lambda path: expert_with(path, torch.ones(256, 256), **{SCALE: torch.ones(3, 5)}),
        r"The scales of the experts of .* do not fit their weights",
    ),
    "experts of two widths": (
        lambda path: expert_with(
            path,
            torch.ones(256, 256),
            **{f"model.layers.0.mlp.experts.1.{part}_proj.weight": torch.ones(128, 256) for part in ("gate", "up")},
            **{"model.layers.0.mlp.experts.1.down_proj.weight": torch.ones(256, 128)},
        ),
        r"The experts of layer 0 of .* have matrices of different shapes",
    ),
    "not finite": (
        lambda path: expert_with(path, torch.full((256, 256), torch.nan)),
        r"Expert 0 of layer 0 of .* has weights that are no finite numbers",
    ),
    "a NUL": (lambda _: "a\0b", r"There is no checkpoint at .*: the name has a NUL character in it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_sentence(case, tmp_path):
    make, says = REFUSED[case]
    with pytest.raises((CaptureError, ModelNotFound), match=says):
        moeviz.lineage("embedded", make(tmp_path))


def test_a_gguf_file_that_is_no_model_or_of_another_format_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match="GGUF"):
        moeviz.lineage("embedded", str(tmp_path / "a.gguf"))
    kinds = {f"blk.0.ffn_{part}_exps.weight": (np.zeros((2, 256, 256), np.float32), "F32") for part in ("up", "down")}
    path = write_gguf(tmp_path / "b.gguf", {"general.architecture": "llama"}, kinds)
    data = path.read_bytes()
    at = data.index(b"blk.0.ffn_up_exps.weight") + len(b"blk.0.ffn_up_exps.weight") + 4 + 3 * 8
    path.write_bytes(data[:at] + (16).to_bytes(4, "little") + data[at + 4 :])
    with pytest.raises(CaptureError, match="IQ2_XXS"):
        moeviz.lineage("embedded", str(path))


def test_a_dense_model_of_another_shape_is_refused(tmp_path):
    tiny_model(DENSE).save_pretrained(tmp_path / "dense")
    with pytest.raises(CaptureError, match=r"256 numbers.*32"):
        moeviz.lineage("embedded", str(tmp_path / "dense"))


def ran(capsys, *words: str) -> tuple[str, str]:
    assert main(["lineage", *words]) == 0
    return capsys.readouterr()


def test_the_command_says_the_numbers_first_and_then_what_is_not_as_it_was(layers, tmp_path, capsys):
    made = [[*experts[:5], mixed((0.5, experts[6]), (0.5, experts[7]))] for experts in layers]
    child = saved(tmp_path / "child", made, torch.float32)
    out, _ = ran(capsys, "embedded", child)
    lines = [line.split() for line in out.splitlines()]
    assert out.splitlines()[0] == (
        f"36 experts of {child}, against the experts of embedded: 30 kept, 6 averaged; 6 of embedded’s were cut."
    )
    assert ["0", "5", "averaged", "0", "0.50", "x", "6", "+", "0.50", "x", "7"] in [line[:11] for line in lines]
    assert ["·", "·", "cut", "3", "5"] not in lines and ["3", "·", "cut", "3", "5", "·", "·", "·"] in lines
    assert not any("kept" in line for line in lines[4:])
    told = json.loads(ran(capsys, "embedded", child, "--json")[0])
    assert told["says"][0] == out.splitlines()[0] and told["lost"] is None and told["layers"]["5"] == 5
    assert len(told["experts"]) == 42 and told["experts"][5]["base_experts"] == [6, 7]


def test_what_the_lost_experts_did_is_looked_up_in_a_trace_or_a_dataset(layers, tmp_path, capsys):
    child = saved(tmp_path / "child", [[*layers[0][:3], *layers[0][4:]], *layers[1:]])
    trace = reference_routing("embedded").select(layers=[0])
    write_trace(trace, tmp_path / "trace.npz")
    write_dataset(trace, tmp_path / "folder")
    known = expert_table(trace).set_index(["layer", "expert"]).loc[0, 3]
    for name in ("trace.npz", "folder"):
        asked = ("embedded", child, "--dataset", str(tmp_path / name))
        (lost,) = json.loads(ran(capsys, *asked, "--json")[0])["lost"]
        assert (lost["layer"], lost["expert"], lost["share"]) == (0, 3, pytest.approx(known["share"]))
    assert "What the lost experts did:" in ran(capsys, *asked)[0]
    write_trace(reference_routing("embedded").select(layers=[1]), tmp_path / "trace.npz")
    assert main(["lineage", "embedded", child, "--dataset", str(tmp_path / "trace.npz")]) == 3
    assert "The base lost expert 3 of layer 0, and embedded, which was recorded, has no" in capsys.readouterr().err


def test_each_format_is_read_as_its_makers_read_it():
    """Blocks of bytes at random, and the numbers that the package gguf makes of them; float8 is torch's."""
    with np.load(Path(__file__).parents[1] / "data" / "gguf_blocks.npz") as kept:
        names = [name for name in kept.files if not name.endswith(" numbers")]
        for name in names:
            assert_array_equal(FORMATS[name].decode(kept[name]), kept[f"{name} numbers"], name)
    assert {*names} == {name for name, form in FORMATS.items() if form.block > 1}
    codes = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    for name, dtype in (("float8_e4m3", torch.float8_e4m3fn), ("float8_e5m2", torch.float8_e5m2)):
        theirs = torch.from_numpy(codes).view(dtype).float().numpy()
        theirs[np.isinf(theirs)] = np.nan
        assert_array_equal(FORMATS[name].decode(codes), theirs)


def test_the_words_of_the_charts_are_those_of_the_table():
    words = (KEPT, MOVED, TUNED, COPIED, AVERAGED, SPLICED, RELATED, UNRELATED, ZEROED, CUT)
    assert words == WHAT


def test_what_became_of_the_bases_experts_and_which_pairs_there_are(layers, tmp_path):
    made = [
        [experts[1], experts[0], mixed((0.5, experts[2]), (0.5, experts[3])), noisy(experts[4], 3.0)]
        for experts in layers[:1]
    ]
    table = moeviz.lineage("embedded", saved(tmp_path / "child", made, torch.float32)).table
    fates = expert_fates(table[table["base_layer"] == 0])
    what = dict(zip(fates["expert"], zip(fates["what"], fates["children"], strict=True), strict=True))
    assert [what[one] for one in range(5)] == [("moved", 1)] * 2 + [("averaged", 1)] * 2 + [("tuned", 1)]
    assert {what[one] for one in (5, 6, 7)} == {("cut", 0)} and len(what) == EXPERTS
    pairs = lineage_pairs(table[table["base_layer"] == 0])
    assert list(zip(pairs["child"], pairs["base"], strict=True)) == [
        *[("0", "1"), ("1", "0"), ("2", "2"), ("2", "3"), ("3", "4"), ("cut", "5"), ("cut", "6"), ("cut", "7")]
    ]
    assert pairs["part"][2:4].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
