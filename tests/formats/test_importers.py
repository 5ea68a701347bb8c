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

from benchmarks.import_damage import tried
from moeviz import InvalidTrace, MoevizError, RoutingTrace
from moeviz.file_limits import shown
from moeviz.formats.exports import read_bytes, read_counted, read_counts, read_trace, write_trace
from moeviz.formats.importers import table
from moeviz.formats.importers.options import SAYS, ImportOptions, flag
from moeviz.formats.importers.source import Source, source_of
from moeviz.formats.importers.table import importers, recognised
from moeviz.formats.importers.torch_file import from_torch
from moeviz.gguf_file import from_gguf
from moeviz.routing_trace import NOT_RECORDED

GGUF_COUNT = from_gguf((FOLDER / "imatrix.gguf").read_bytes()).tensors["blk.1.ffn_up_exps.weight.counts"][2] + 2
FOUND = {name: recognised(source_of(FOLDER / name)) for name in READ}


@pytest.mark.parametrize("name", READ)
def test_a_file_holds_what_its_writer_put_there(name):
    assert differences(read_counted(FOLDER / name, options=options_of(name)), name) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_routing_is_refused_with_its_reason(name):
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
    with pytest.raises(InvalidTrace, match="--top-k"):
        read_counted(FOLDER / name)


@pytest.mark.parametrize("name", [name for name in READ if EXPECTED[name]["kind"] == "counts"])
def test_a_top_k_that_the_counts_rule_out_is_refused(name):
    """Four experts a token would be six tokens and a half, and an expert has more."""
    if options_of(name).top_k is not None:
        with pytest.raises(InvalidTrace, match="top-k smaller than 8"):
            read_counted(
                FOLDER / name, options=ImportOptions(top_k=8, expert_parallel=2, experts=8 * ("plumb" in name) or None)
            )


def test_one_changed_id_is_noticed(tmp_path):
    """The control: in formats of text, an id is changed by hand, and the comparison says so."""
    path = copied("big_moe_on_edge.csv", tmp_path)
    lines = path.read_text().splitlines()
    cells = lines[8].split(",")
    cells[5] = "3" if cells[5] != "3" else "4"
    path.write_text("\n".join([*lines[:8], ",".join(cells), *lines[9:]]) + "\n")
    assert differences(read_counted(path), "big_moe_on_edge.csv") == ["ids"]


@pytest.mark.parametrize("name", ["vllm_offline.npy", "mbolt.bin", "imatrix.gguf", "longspear.bin"])
def test_one_changed_byte_of_numbers_is_noticed(name, tmp_path):
    path = copied(name, tmp_path)
    data = bytearray(path.read_bytes())
    data[-4 if name == "mbolt.bin" else GGUF_COUNT if name == "imatrix.gguf" else -2] ^= 1
    path.write_bytes(data)
    try:
        wrong = differences(read_counted(path, options=options_of(name)), name)
    except InvalidTrace:
        wrong = ["refused"]
    assert wrong


def test_rows_of_zeros_are_not_recorded_and_layers_of_zeros_are_left_out(tmp_path):
    rows = np.load(FOLDER / "vllm_offline.npy")
    rows[:3, 2] = 0
    np.save(tmp_path / "spoilt.npy", rows)
    trace = read_trace(tmp_path / "spoilt.npy")
    assert (trace.experts[1, :3] == NOT_RECORDED).all() and trace.recorded.sum() == trace.recorded.size - 3
    assert trace.model.layers == (1, 2, 3, 4) and "left out: 0." in trace.model.caution
    told = read_trace(tmp_path / "spoilt.npy", options=ImportOptions(moe_layers=(1, 2, 3, 4), experts=8))
    assert told.model.caution == ""


def test_an_array_of_zeros_and_an_expert_twice_are_refused(tmp_path):
    rows = np.load(FOLDER / "vllm_offline.npy")
    np.save(tmp_path / "zeros.npy", rows * 0)
    with pytest.raises(InvalidTrace, match="bypasses what records"):
        read_trace(tmp_path / "zeros.npy")
    rows[4, 3] = 5
    np.save(tmp_path / "twice.npy", rows)
    with pytest.raises(
        InvalidTrace, match=r"1 of 52 rows name an expert twice, the first at layer 3, token 4: \[5, 5\]"
    ):
        read_trace(tmp_path / "twice.npy")


def test_zeros_of_a_top_1_model_are_asked_about(tmp_path):
    np.save(tmp_path / "one.npy", np.load(FOLDER / "vllm_offline.npy")[..., :1])
    with pytest.raises(InvalidTrace, match="--moe-layers"):
        read_trace(tmp_path / "one.npy")
    assert read_trace(tmp_path / "one.npy", options=ImportOptions(moe_layers=(1, 2))).model.layers == (1, 2)


def test_a_response_that_is_a_row_short_is_not_aligned_by_guessing(tmp_path):
    path = copied("vllm_0.21_chat.json", tmp_path)
    body = json.loads(path.read_text())
    body["prompt_routed_experts"].pop(0)
    path.write_text(json.dumps(body))
    with pytest.raises(InvalidTrace, match="12 rows of routing for 9 prompt tokens and 5 generated ones"):
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


def test_a_file_that_fits_none_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("nothing of the kind")
    with pytest.raises(InvalidTrace, match=r"Looked for: ") as refused:
        read_trace(tmp_path / "a.txt")
    assert all(row.label in str(refused.value) for row in importers())
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidTrace, match=r"Looked for: "):
        read_trace(tmp_path / "folder")


def test_a_format_can_be_named_and_a_wrong_name_lists_them(tmp_path):
    assert read_trace(FOLDER / "mbolt.bin", format="mbolt").model.num_experts == (8,) * 4
    with pytest.raises(MoevizError, match="There is no format 'bolt'"):
        read_trace(FOLDER / "mbolt.bin", format="bolt")
    with pytest.raises(InvalidTrace, match="not of version 1 of mbolt"):
        read_trace(FOLDER / "vllm_offline.npy", format="mbolt")


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npz", ".parquet"])
def test_our_own_files_are_left_to_their_own_readers(trace: RoutingTrace, suffix, tmp_path):
    write_trace(trace, tmp_path / f"own{suffix}")
    assert recognised(source_of(tmp_path / f"own{suffix}")) is None


# torch


def saved(value: object) -> bytes:
    torch.save(value, buffer := BytesIO())
    return buffer.getvalue()


def test_a_tensor_expanded_by_strides_is_refused_before_it_is_made():
    data = saved({"logical_count": torch.ones(1, dtype=torch.int32).expand(10**4, 10**4, 10**4)})
    assert len(data) < 2000
    with pytest.raises(InvalidTrace, match="larger than what is stored"):
        from_torch(data, 2**30)


def test_a_file_of_torch_that_would_run_a_program_is_not_opened(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("run",))

    with pytest.raises(InvalidTrace, match="asks for '__builtin__ print', which could run a program"):
        from_torch(saved({"samples": Runs()}), 2**30)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"samples": 1}))
    with pytest.raises(InvalidTrace, match="is a pickle"):
        read_trace(tmp_path / "a.pkl")


def test_what_somebody_uploads_is_no_file_of_torch():
    with pytest.raises(InvalidTrace, match="those are opened only where they lie"):
        read_bytes((FOLDER / "slime.pt").read_bytes(), "slime.pt")
    assert read_bytes((FOLDER / "vllm_offline.npy").read_bytes(), "a.npy").experts.shape == (4, 13, 2)


def test_a_name_that_a_pickle_makes_as_it_runs_is_refused():
    with zipfile.ZipFile(BytesIO(saved([1]))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(buffer := BytesIO(), "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickle.dumps(print, 4) if name.endswith("data.pkl") else content)
    with pytest.raises(InvalidTrace, match="could run a program"):
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
    with pytest.raises(InvalidTrace, match="larger than what is stored"):
        from_torch(saved([one.view(2**18) for _ in range(20)]), 2**30)


# Budgets


def test_a_source_larger_than_its_budget_is_refused(tmp_path):
    with pytest.raises(InvalidTrace, match="bytes are read"):
        source_of(FOLDER / "atlas.json", max_bytes=1000)
    with pytest.raises(InvalidTrace, match="values as JSON"):
        Source("a.jsonl", {"a.jsonl": b'{"x": [1]}\n' + b"[" + b"1," * 1000 + b"1]"}, 2**14).rows  # noqa: B018


def test_few_rows_may_not_describe_a_large_trace(tmp_path):
    (tmp_path / "big.csv").write_text("phase,token,layer,rank,expert\nprefill,99999999,0,0,1\n")
    with pytest.raises(InvalidTrace, match="at most 1,048,576 cells"):
        read_trace(tmp_path / "big.csv")


def test_damaged_files_are_read_or_refused_in_one_sentence():
    """A short form of `python -m benchmarks.import_damage`."""
    came, _, _ = tried(200, seed=7)
    assert came.keys() <= {"read", "refused"}
    assert came["refused"] > 50


def test_an_array_is_shown_in_one_line():
    assert "\n" not in shown(np.zeros((3, 9)))


def test_a_raw_error_would_be_noticed(monkeypatch):
    monkeypatch.setattr(table, "DAMAGED", ())
    came, _, _ = tried(200, seed=7)
    assert [what for what in came if what.startswith("raw ")]
