"""Routing as other programs write it: each file is recognised by what is in it, and holds what its writer put there."""

import json
import pickle
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from importer_files import EXPECTED, FOLDER, READ, REFUSED, copied, differences, options_of
from safetensors.numpy import save_file

from moeviz import ExpertCounts, InvalidTrace, MoevizError, RoutingTrace
from moeviz.errors import NotSaid
from moeviz.formats.exports import open_path, read_bytes, read_counted, read_counts, read_trace, write_trace
from moeviz.formats.importers import table
from moeviz.formats.importers.importer import SAYS, ImportOptions, Source, flag, source_of
from moeviz.formats.importers.table import importers, recognised
from moeviz.formats.importers.torch_file import from_torch
from moeviz.routing_trace import NOT_RECORDED
from tests.attack.import_damage import tried

FOUND = {name: recognised(source_of(FOLDER / name)) for name in READ}
TOKENS_FIRST = ImportOptions(first_axis="tokens")


@pytest.mark.parametrize("name", READ)
def test_a_file_holds_what_its_writer_put_there(name):
    assert differences(read_counted(FOLDER / name, options=options_of(name)), name) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_routing_is_refused_with_its_reason(name):
    with pytest.raises(InvalidTrace, match=r"pickle|legacy|placement"):
        read_counted(FOLDER / name)


def test_every_format_has_a_file():
    assert {row.name for row in FOUND.values()} == {row.name for row in importers()}
    assert len({row.name for row in importers()}) == len(importers())


def test_every_file_that_ends_in_a_format_is_in_the_table():
    files = Path(table.__file__).parent.glob("*.py")
    assert sorted(file.stem for file in files if "\nFORMAT = Importer(" in file.read_text()) == sorted(table.MODULES)


def test_whoever_writes_a_trace_imports_no_importer(tmp_path):
    code = "import sys; from moeviz.formats.exports import write_trace; from moeviz.testing import sample_trace"
    code += "; write_trace(sample_trace(), sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "t.csv"], capture_output=True, text=True, check=True)
    loaded = {f"moeviz.formats.importers.{name}" for name in table.MODULES} & set(done.stdout.split())
    assert not loaded and "moeviz.formats.importers.table" in done.stdout


def test_a_file_is_recognised_by_its_content_and_not_by_its_name(tmp_path):
    for name in READ:
        if (FOLDER / name).is_file():
            (tmp_path / "file").write_bytes((FOLDER / name).read_bytes())
            assert recognised(source_of(tmp_path / "file")) is FOUND[name]


@pytest.mark.parametrize("name", [name for name in READ if FOUND[name].asks])
def test_what_a_file_does_not_say_is_asked_for(name):
    """Each option that a format needs, left out in turn, is named in the sentence."""
    told = {field: getattr(options_of(name), field) for field in SAYS}
    for option in FOUND[name].asks:
        with pytest.raises(InvalidTrace, match=flag(option)) as refused:
            read_counted(FOLDER / name, options=ImportOptions(**told | {option: None}))
        assert SAYS[option] in str(refused.value)


@pytest.mark.parametrize("name", ["sglang_stat.pt", "sglang_per_pass.pt", "llama_moe_trace.csv"])
def test_counts_in_a_format_that_may_hold_either_ask_for_top_k(name):
    with pytest.raises(InvalidTrace, match="--experts-per-token"):
        read_counted(FOLDER / name)


@pytest.mark.parametrize("name", [name for name in READ if EXPECTED[name]["kind"] == "counts"])
def test_a_top_k_that_the_counts_rule_out_is_refused(name):
    """Four experts a token would be six tokens and a half, and an expert has more."""
    if options_of(name).top_k is not None:
        with pytest.raises(InvalidTrace, match=r"\b8\b"):
            read_counted(
                FOLDER / name, options=ImportOptions(top_k=8, expert_parallel=2, experts=8 * ("plumb" in name) or None)
            )


def test_the_records_of_two_ranks_are_put_in_the_order_of_passes_and_then_of_ranks(tmp_path):
    """Each rank read another request; the file has all of one rank first."""
    content = torch.load(FOLDER / "sglang_per_token.pt", weights_only=False)
    of_rank_1 = [
        record | {"rank": 1, "input_ids": [1000 + one for one in record["input_ids"]]} for record in content["records"]
    ]
    torch.save(content | {"records": [*of_rank_1, *content["records"]]}, tmp_path / "two.pt")
    one, two = read_trace(FOLDER / "sglang_per_token.pt"), read_trace(tmp_path / "two.pt")
    expected, rows, at = [], [], 0
    for record in content["records"]:
        count = len(record["input_ids"])
        expected += [*record["input_ids"], *(1000 + token for token in record["input_ids"])]
        rows += 2 * [*range(at, at + count)]
        at += count
    assert two.tokens["token_id"].tolist() == expected
    np.testing.assert_array_equal(two.experts, one.experts[:, rows])


def test_one_changed_id_is_noticed(tmp_path):
    """The control: in formats of text, an id is changed by hand, and the comparison says so."""
    path = copied("big_moe_on_edge.csv", tmp_path)
    lines = path.read_text().splitlines()
    cells = lines[8].split(",")
    cells[5] = "3" if cells[5] != "3" else "4"
    path.write_text("\n".join([*lines[:8], ",".join(cells), *lines[9:]]) + "\n")
    assert differences(read_counted(path), "big_moe_on_edge.csv") == ["ids"]


def test_rows_of_zeros_are_not_recorded_and_layers_of_zeros_are_left_out(tmp_path):
    rows = np.load(FOLDER / "vllm_offline.npy")
    rows[:3, 2] = 0
    np.save(tmp_path / "spoilt.npy", rows)
    trace = read_trace(tmp_path / "spoilt.npy", options=TOKENS_FIRST)
    assert (trace.experts[1, :3] == NOT_RECORDED).all() and trace.recorded.sum() == trace.recorded.size - 3
    assert trace.model.layers == (1, 2, 3, 4) and "left out: 0." in trace.model.caution
    told = ImportOptions(moe_layers=(1, 2, 3, 4), experts=8, first_axis="tokens")
    assert read_trace(tmp_path / "spoilt.npy", options=told).model.caution == (
        "Not recorded in the file: 3 of 52 rows, each a token at a layer."
    )


def test_an_array_of_zeros_and_an_expert_twice_are_refused(tmp_path):
    rows = np.load(FOLDER / "vllm_offline.npy")
    np.save(tmp_path / "zeros.npy", rows * 0)
    with pytest.raises(InvalidTrace, match="record"):
        read_trace(tmp_path / "zeros.npy", options=TOKENS_FIRST)
    rows[4, 3] = 5
    np.save(tmp_path / "twice.npy", rows)
    with pytest.raises(InvalidTrace, match=r"1.*52 rows.*layer 3.*token 4.*\[5.*5\]"):
        read_trace(tmp_path / "twice.npy", options=TOKENS_FIRST)


def test_zeros_of_a_top_1_model_are_asked_about(tmp_path):
    np.save(tmp_path / "one.npy", np.load(FOLDER / "vllm_offline.npy")[..., :1])
    with pytest.raises(InvalidTrace, match="--moe-layers"):
        read_trace(tmp_path / "one.npy", options=TOKENS_FIRST)
    told = ImportOptions(moe_layers=(1, 2), first_axis="tokens")
    assert read_trace(tmp_path / "one.npy", options=told).model.layers == (1, 2)


def test_a_response_that_is_a_row_short_is_not_aligned_by_guessing(tmp_path):
    path = copied("vllm_0.21_chat.json", tmp_path)
    body = json.loads(path.read_text())
    body["prompt_routed_experts"].pop(0)
    path.write_text(json.dumps(body))
    with pytest.raises(InvalidTrace, match=r"12 rows.*9 prompt.*5 generated"):
        read_trace(path)
    assert read_trace(path, options=ImportOptions(start=1)).tokens["position"].tolist() == list(range(1, 13))


def test_slots_have_an_order_only_where_the_source_has_one():
    orders = {
        name: read_trace(FOLDER / name, options=options_of(name)) for name in READ if EXPECTED[name]["kind"] == "trace"
    }
    ordered = {name.partition(".")[0] for name, trace in orders.items() if trace.model.slot_order == "weight"}
    weighted = {"big_moe_on_edge", "atlas", "esft", "lens_cache"}
    assert {name.partition(".")[0] for name, trace in orders.items() if trace.weights is not None} == weighted
    assert ordered == weighted | {"megatron_completions", "policylang", "olmoe_c4_results", "hf_router_logits"}


def test_all_prompts_of_a_file_are_read(tmp_path):
    line = json.loads((FOLDER / "atlas.jsonl").read_text())
    other = {**line, "text": "another", "domain": "prose"}
    (tmp_path / "two.jsonl").write_text("\n".join(json.dumps(record) for record in (line, line, other)))
    trace = read_trace(tmp_path / "two.jsonl")
    assert trace.tokens["label"].value_counts().to_dict() == {"code": 13, "prose": 13}  # the repeated line is left out
    assert trace.tokens["text"].iloc[0] == "t0" and trace.model.name == "org/made-up"


def test_ranks_that_saw_the_same_tokens_count_once(tmp_path):
    path = copied("tensorrt", tmp_path)
    both = read_counts(path)
    (path / "rank1.safetensors").write_bytes((path / "rank0.safetensors").read_bytes())
    once = read_counts(path)
    assert once.tokens.sum() < both.tokens.sum() and "saw the same tokens" in once.model.caution
    (path / "rank1.safetensors").rename(path / "rank2.safetensors")
    with pytest.raises(InvalidTrace, match=r"ranks \[0, 2\]"):
        read_counts(path)


def test_counts_of_a_trace_are_those_of_its_tokens():
    trace = read_trace(FOLDER / "mbolt.bin")
    assert read_counts(FOLDER / "mbolt.bin").equals(trace.counts())


def test_counts_are_no_trace_and_the_sentence_says_how_to_read_them():
    with pytest.raises(InvalidTrace, match=r"moeviz\.read_counts"):
        read_trace(FOLDER / "eplb_loads.json", options=ImportOptions(top_k=2))


def test_a_file_of_no_known_format_is_not_recognised(tmp_path):
    (tmp_path / "a.txt").write_text("nothing of the kind")
    with pytest.raises(InvalidTrace, match="recognised") as refused:
        read_trace(tmp_path / "a.txt")
    assert f" {len(importers())} formats" in str(refused.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidTrace, match="recognised"):
        read_trace(tmp_path / "folder")


def test_a_format_can_be_named_and_a_wrong_name_lists_them(tmp_path):
    assert read_trace(FOLDER / "mbolt.bin", format="mbolt").model.num_experts == (8,) * 4
    with pytest.raises(MoevizError, match="'bolt'"):
        read_trace(FOLDER / "mbolt.bin", format="bolt")
    with pytest.raises(InvalidTrace, match="version 1"):
        read_trace(FOLDER / "vllm_offline.npy", format="mbolt")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz", ".parquet"])
def test_our_own_files_are_left_to_their_own_readers(trace: RoutingTrace, suffix, tmp_path):
    write_trace(trace, tmp_path / f"own{suffix}")
    assert recognised(source_of(tmp_path / f"own{suffix}")) is None


# What a file does not say, or has lost


def test_of_an_array_of_ids_it_is_asked_which_axis_comes_first(trace: RoutingTrace, tmp_path):
    """As `np.save(path, trace.experts)` writes it: it was read as tokens, layers, slots, as vLLM's."""
    experts = np.where(np.arange(trace.experts.shape[1])[:, None] < 3, NOT_RECORDED, trace.experts)
    np.save(tmp_path / "ours.npy", experts)
    for options in (ImportOptions(), ImportOptions(experts=8, hidden_layers=len(experts))):
        with pytest.raises(NotSaid, match=r"--first-axis.*--first-axis") as refused:
            read_trace(tmp_path / "ours.npy", options=options)
        assert refused.value.names == ("first_axis",)
    told = ImportOptions(experts=max(trace.model.num_experts), first_axis="layers")
    assert np.array_equal(read_trace(tmp_path / "ours.npy", options=told).experts, experts)
    with pytest.raises(InvalidTrace, match=r"'K'.*'layers' or 'tokens'"):
        ImportOptions(first_axis="K")


LOGITS = np.random.default_rng(0).normal(size=(4, 13, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", lambda path: np.save(path, LOGITS)),
        ("a.npz", lambda path: np.savez(path, logits=LOGITS)),
        ("a.pt", lambda path: torch.save(torch.from_numpy(LOGITS), path)),
        ("a.safetensors", lambda path: save_file({"router_logits": LOGITS}, path)),
    ],
)
def test_router_logits_of_all_layers_in_one_array_are_read_when_its_axes_are_told(tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(NotSaid, match="--first-axis") as refused:
        read_trace(tmp_path / name)
    assert set(refused.value.names) == {"first_axis", "top_k", "experts"}
    trace = read_trace(tmp_path / name, options=ImportOptions(top_k=2, experts=8, first_axis="layers"))
    assert np.array_equal(trace.logits, LOGITS)
    turned = read_trace(tmp_path / name, options=ImportOptions(top_k=2, experts=8, first_axis="tokens"))
    assert np.array_equal(turned.logits, LOGITS.swapaxes(0, 1))


@pytest.mark.parametrize(
    ("tables", "experts", "says"),
    [
        ({f"layer.{n // 4}.gate.{n % 4}": LOGITS[0] for n in range(12)}, 8, "12 tables.*0"),
        ({"gate": LOGITS[0]}, 8, "'gate'"),
        ({f"layers.{n}.gate.weight": np.ones((8, 256), np.float32) * n for n in range(4)}, 8, "is 8 x 256, and router"),
        ({f"hidden.{n}": LOGITS[n].repeat(8, axis=1) for n in range(4)}, 8, "is 13 x 64, and router .* hidden states?"),
        ({f"scores.{n}": 1 / (1 + np.exp(-LOGITS[n])) for n in range(4)}, 8, "from 0 to 1: these are scores"),
        ({f"ids.{n}": np.argsort(LOGITS[n]).astype(np.int32) for n in range(4)}, 8, "The tables are int32"),
    ],
    ids=["equal-numbers", "no-number", "gate-weights", "hidden-states", "scores", "ids"],
)
def test_what_has_the_shape_of_router_logits_and_is_none_is_refused(tmp_path, tables, experts, says):
    save_file(tables, tmp_path / "a.safetensors")
    with pytest.raises(InvalidTrace, match=says):
        read_trace(tmp_path / "a.safetensors", options=ImportOptions(top_k=2, experts=experts))


def megatron(folder: Path, ranks: dict[int, list[int]], layers: tuple[int, ...] = (1, 2)) -> ExpertCounts:
    """Counts of a folder in which each rank has written these steps, one token to each of its two experts."""
    (folder / "tokens_per_expert").mkdir()
    for rank, steps in ranks.items():
        rows = (
            {"iter": step, "block": "decoder", "layer": layer, "tpe": [[1, 1]]} for step in steps for layer in layers
        )
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "tokens_per_expert" / f"rank{rank}.jsonl").write_text(text)
    return read_counts(folder, options=ImportOptions(top_k=2, expert_parallel=2))


def test_a_step_that_a_killed_rank_did_not_write_is_left_out_with_its_numbers(tmp_path):
    counts = megatron(tmp_path, {0: [1, 2, 3], 1: [1, 2]})
    assert counts.groups == (1, 2) and (counts.assignments == 1).all()
    assert counts.model.caution.endswith(
        "Left out: 1 of 3 steps (3), for want of 2 lines that the ranks have at other steps, as where a run is killed."
    )


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        ({0: [1, 2], 1: []}, "1.*ranks 0.*2 parts"),
        ({0: [1], 2: [1]}, "ranks 0.*2.*--expert-parallel 2 needs.*2.*0"),
        ({0: [1], 1: [2]}, "No step of the log has the counts of every rank"),
        ({0: [1, 1], 1: [1]}, "0 counts layer 1.*step 1"),
    ],
)
def test_counts_of_which_a_rank_is_lacking_are_refused(tmp_path, ranks, says):
    with pytest.raises(InvalidTrace, match=says):
        megatron(tmp_path, ranks)


def test_what_of_reap_is_not_read_is_named():
    caution = read_counts(FOLDER / "reap.pt").model.caution
    assert "no saliency: 'ean_mean, ean_sum, max_activations, reap, weighted_expert_frequency_sum'" in caution


def test_rows_that_vllm_did_not_record_are_counted_in_the_caution_and_by_the_doctor(tmp_path):
    rows = np.load(FOLDER / "vllm_offline.npy")[:12]
    rows[:8] = 0
    rows[8, 1] = 0
    np.save(tmp_path / "cached.npy", rows)
    opened = open_path(tmp_path / "cached.npy", options=ImportOptions(experts=8, first_axis="tokens"))
    assert "Not recorded in the file: 33 of 48 rows, each a token at a layer." in opened.counted.model.caution
    assert any(sentence.startswith("33 of 48 rows") for sentence in opened.findings)


CUT = {
    "mbolt.bin": (8, ("Left out: the last 12 bytes", "Left out: 1 of 5 passes, 1 of 13 tokens, which lack")),
    "llama_moe_trace_ranked.csv": (3, ("ends in no line break, as where a run is killed: 'decode,12,4,1'",)),
    "vllm_batch.jsonl": (9, ("the last of 2 lines of 'vllm_batch.jsonl', cut as when a run",)),
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_a_kill_cut_says_what_is_lost(tmp_path, name):
    path, (cut, says) = copied(name, tmp_path), CUT[name]
    path.write_bytes(path.read_bytes()[:-cut])
    opened = open_path(path, options=options_of(name))
    for sentence in says:
        assert sentence in opened.counted.model.caution and any(sentence in said for said in opened.findings)
    assert opened.left_out and open_path(FOLDER / name, options=options_of(name)).left_out == ()


# torch


def saved(value: object) -> bytes:
    torch.save(value, buffer := BytesIO())
    return buffer.getvalue()


def test_a_tensor_expanded_by_strides_is_refused_before_it_is_made():
    data = saved({"logical_count": torch.ones(1, dtype=torch.int32).expand(10**4, 10**4, 10**4)})
    assert len(data) < 2000
    with pytest.raises(InvalidTrace, match="larger"):
        from_torch(data, 2**30)


def test_a_file_of_torch_that_would_run_a_program_is_not_opened(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("run",))

    with pytest.raises(InvalidTrace, match="'__builtin__ print'"):
        from_torch(saved({"samples": Runs()}), 2**30)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"samples": 1}))
    with pytest.raises(InvalidTrace, match="pickle"):
        read_trace(tmp_path / "a.pkl")


def test_what_somebody_uploads_is_no_file_of_torch():
    with pytest.raises(InvalidTrace, match="moeviz convert"):
        read_bytes((FOLDER / "slime.pt").read_bytes(), "slime.pt")
    data = (FOLDER / "vllm_offline.npy").read_bytes()
    assert read_bytes(data, "a.npy", options=TOKENS_FIRST).experts.shape == (4, 13, 2)


def test_a_name_that_a_pickle_makes_as_it_runs_is_refused():
    with zipfile.ZipFile(BytesIO(saved([1]))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(buffer := BytesIO(), "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickle.dumps(print, 4) if name.endswith("data.pkl") else content)
    with pytest.raises(InvalidTrace, match="program"):
        from_torch(buffer.getvalue(), 2**30)


def test_a_wrong_checksum_is_seen_though_torch_does_not_look():
    data = bytearray((FOLDER / "sglang_stat.pt").read_bytes())
    with zipfile.ZipFile(BytesIO(bytes(data))) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("data/0"))
    data[member.header_offset + 200] ^= 1
    assert torch.load(BytesIO(bytes(data)), weights_only=True)["rank"] == 0
    with pytest.raises(InvalidTrace, match="checksum"):
        from_torch(bytes(data), 2**30)


def test_many_tensors_of_one_storage_are_counted_together():
    one = torch.zeros(2**18)
    with pytest.raises(InvalidTrace, match="larger"):
        from_torch(saved([one.view(2**18) for _ in range(20)]), 2**30)


# Budgets


def test_a_source_larger_than_its_budget_is_refused(tmp_path):
    with pytest.raises(InvalidTrace, match="bytes"):
        source_of(FOLDER / "atlas.json", max_bytes=1000)
    with pytest.raises(InvalidTrace, match="JSON"):
        Source("a.jsonl", {"a.jsonl": b'{"x": [1]}\n' + b"[" + b"1," * 1000 + b"1]"}, 2**14).rows  # noqa: B018


def test_few_rows_may_not_describe_a_large_trace(tmp_path):
    (tmp_path / "big.csv").write_text("phase,token,layer,rank,expert\nprefill,99999999,0,0,1\n")
    with pytest.raises(InvalidTrace, match="1,048,576"):
        read_trace(tmp_path / "big.csv")


def test_a_negative_expert_is_called_so(tmp_path):
    (tmp_path / "m.csv").write_text("phase,token,layer,rank,expert\nprefill,0,0,0,3\nprefill,0,0,1,-1\n")
    with pytest.raises(InvalidTrace, match="negative"):
        read_counted(tmp_path / "m.csv")


def test_damaged_files_are_read_or_refused_in_one_sentence():
    """A short form of `python -m tests.attack.import_damage`."""
    came, _, _ = tried(200, seed=7)
    assert came.keys() <= {"read", "refused"}
    assert came["refused"] > 50
