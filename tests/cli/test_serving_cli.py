"""`moeviz cost`, `decide` and `plan`: rows named as in the reference figures, and what was judged is always said."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from gguf_models import write_model
from serving_data import figures, reference_trace
from tiny_models import CONFIGS, tiny_model

from moeviz import ModelInfo, RoutingTrace
from moeviz.capture.models.kv_cache import served_by_config
from moeviz.cli.cost import HEADINGS, in_lines
from moeviz.cli.main import main
from moeviz.cli.plan import ENGINES as ENGINE_NAMES
from moeviz.errors import MissingField, MoevizError
from moeviz.formats.counts_file import write_counts
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.dataset.opening import read_dataset
from moeviz.formats.exports import read_trace, write_trace
from moeviz.routing_trace import token_frame
from moeviz.serving.answers import BALANCE, DRIFT, MEMORY
from moeviz.serving.memory import serving_memory
from moeviz.serving.plans.engines import ENGINES
from moeviz.serving.requests import PHASES, repeats, served_tokens


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("serve") / "trace.npz"
    write_trace(reference_trace(), path)
    return str(path)


def rows(capsys, *words: str) -> pd.DataFrame:
    assert main([*words, "--json"]) == 0
    return pd.DataFrame(json.loads(capsys.readouterr().out)["rows"])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["cache", "--capacities", "2", "4"], "embedded_cache"),
        (["cache", "--shared", "--capacities", "12"], "embedded_cache_global"),
        (["coverage", "--batch", "1", "8"], "embedded_coverage"),
        (["prefetch"], "embedded_prefetch"),
        (["placement", "--devices", "4", "--copies", "4"], "embedded_placement"),
    ],
)
def test_rows_have_the_columns_of_the_reference(words, name, file, capsys):
    found, wanted = rows(capsys, "cost", words[0], file, *words[1:]), figures(name)
    assert set(wanted) <= set(found)
    if "layer" in wanted:
        assert sorted(set(found["layer"])) == sorted(set(wanted["layer"]))
    for column in ("lru", "random", "recency", "reached"):
        if column in wanted and column != "random":
            keys = [key for key in ("layer", "capacity", "slots", "m", "devices", "placement") if key in wanted]
            both = found.merge(wanted, on=keys, suffixes=("", "_wanted"))
            assert len(both) and np.allclose(both[column], both[f"{column}_wanted"], atol=1e-9)


@pytest.mark.parametrize("words", [["embedded"], ["mistralai/Mixtral-8x7B-v0.1"]])
def test_memory_takes_a_model(words, capsys):
    found = rows(capsys, "params", "--memory", *words, "--context", "4096,32768", "--batch", "1,32", "--bits", "16,8")
    assert set(figures("memory")) <= set(found) and len(found) == 8


def test_memory_takes_a_gguf_file_and_says_what_it_takes_as_it_is_stored(tmp_path, capsys):
    """Of the tiny Mixtral that transformers describes too: the same rows, but for the name."""
    model = tiny_model(CONFIGS["mixtral"])
    path = str(write_model(model, tmp_path / "tiny.gguf", "F16"))
    found = rows(capsys, "params", "--memory", path, "--context", "64", "--bits=16,4")
    wanted = serving_memory(served_by_config(model.config, path), [64], [1], [16, 4])
    assert found.to_dict("list") == pd.DataFrame(wanted).to_dict("list")
    assert main(["params", "--memory", path]) == 0
    assert "In llama.cpp, as it is stored (float16), it needs " in capsys.readouterr().out
    assert main(["params", path]) == 0
    assert "keys and values of 8,192 tokens, in 16 bits: not known" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "dataset"
    write_dataset(reference_trace(), folder, shard_tokens=100)
    return folder


@pytest.mark.parametrize(
    "words", [["cache", "--capacities", "2", "4"], ["coverage", "--batch", "1", "8"], ["placement", "--devices", "4"]]
)
def test_a_dataset_is_served_and_planned_by_its_counts(words, dataset, tmp_path, capsys):
    write_counts(reference_trace().counts(), tmp_path / "counts.json")
    of_counts, of_folder = (
        rows(capsys, "cost", words[0], str(file), *words[1:]) for file in (tmp_path / "counts.json", dataset)
    )
    assert len(read_dataset(dataset).shards) > 1 and len(of_folder)
    pd.testing.assert_frame_equal(of_folder, of_counts)
    plans = []
    for file in (tmp_path / "counts.json", dataset):
        assert main(["plan", str(file), "--engine", "sglang", "-o", str(tmp_path / "plan.json"), "--devices", "4"]) == 0
        plans.append((tmp_path / "plan.json").read_bytes())
        assert "Counts of" in capsys.readouterr().out
    assert plans[0] == plans[1]


def test_a_dataset_with_a_damaged_shard_is_counted_only_if_that_is_asked_for(dataset, tmp_path, capsys):
    folder = shutil.copytree(dataset, tmp_path / "damaged")
    (folder / "shard-000001" / "load.parquet").unlink()
    plan = ["plan", str(folder), "--engine", "sglang", "-o", str(tmp_path / "plan.json"), "--devices", "4"]
    assert main(plan) == 3
    assert "shard-000001 is damaged: load.parquet is missing" in capsys.readouterr().err
    assert main([*plan, "--partial"]) == 0
    assert "left out: shard-000001 is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("what", HEADINGS)
def test_a_person_reads_on_which_tokens_it_was_judged(what, file, capsys):
    assert main(["cost", what, file]) == 0
    said = capsys.readouterr().out
    assert said.startswith(HEADINGS[what])
    assert "8,502 tokens: those of prompts, as none are generated" in said
    if what in ("prefetch", "placement"):
        assert "first half of these, judged on the second" in said


@pytest.mark.parametrize("engine", ENGINES)
def test_a_plan_is_written_with_what_starts_its_engine(engine, file, tmp_path, capsys):
    path = tmp_path / f"plan{ENGINES[engine].suffix}"
    assert main(["plan", file, "--engine", engine, "--devices", "4", "--copies", "4", "-o", str(path)]) == 0
    said = capsys.readouterr().out
    assert path.stat().st_size and str(path) in said and "start it with: " in said and "8,502" in said


def test_options_that_an_engine_s_file_does_not_depend_on_are_named(file, tmp_path, capsys):
    ignored = {"llama.cpp": ("devices", "copies"), "ktransformers": ("devices", "copies", "layers-on-gpu")}
    ignored |= dict.fromkeys(("sglang", "lmdeploy"), ("layers-on-gpu",))
    for engine, options in ignored.items():
        path, row = tmp_path / f"plan{ENGINES[engine].suffix}", ENGINES[engine]
        numbers = ["--devices", "4", "--copies", "4", "--layers-on-gpu", "2"]
        assert main(["plan", file, "--engine", engine, *numbers, "-o", str(path)]) == 0
        said, written = capsys.readouterr().err, path.read_bytes()
        assert [line for line in said.splitlines() if "has no effect" in line] == [
            f"moeviz: --{name} has no effect for {row.title}: its file does not depend on it" for name in options
        ]
        kept = [word for option in ("devices", "copies") if option not in options for word in (f"--{option}", "4")]
        kept += ["--layers-on-gpu", "2"] if "layers-on-gpu" not in options else []
        assert main(["plan", file, "--engine", engine, *kept, "-o", str(path)]) == 0
        assert "changes nothing" not in capsys.readouterr().err and path.read_bytes() == written


def test_a_plan_in_json(file, tmp_path, capsys):
    path = str(tmp_path / "plan.json")
    assert main(["plan", file, "--engine", "sglang", "--devices", "4", "--copies", "4", "-o", path, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["devices"] == 4 and facts["copies"] == 4 and facts["repaired"] == 2 and facts["file"] == path
    assert facts["judged"] in facts["remarks"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "vllm", "-o", "plan.json"], "reads no plan"),
        (["--engine", "sglang", "-o", "plan.yaml"], "SGLang reads a .json file; got 'plan.yaml'"),
        (["--engine", "sglang", "--devices", "3", "-o", "plan.json"], "3 devices cannot hold in equal numbers"),
        (["--engine", "sglang", "-o", "no/such/folder/plan.json"], "'no/such/folder/plan.json' does not exist"),
    ],
)
def test_a_plan_that_cannot_be_written_is_a_sentence(words, said, file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", file, *words]) == 3
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_lists_of_the_command_line_are_those_of_the_library():
    assert tuple(ENGINES) == ENGINE_NAMES


@pytest.fixture(scope="module")
def counts_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("counts") / "counts.json"
    write_counts(reference_trace().counts(), path)
    return str(path)


def test_counts_alone_have_rows_for_what_needs_no_order(counts_file, capsys):
    found, wanted = rows(capsys, "cost", "cache", counts_file), figures("embedded_cache")
    assert set(found) == {"layer", "capacity", "chunk", "steps", "requests", "compulsory", "chance", "static"}
    both = found.merge(wanted, on=["layer", "capacity"], suffixes=("", "_wanted"))
    assert len(both) == len(wanted) and np.allclose(both["static"], both["static_wanted"], atol=1e-9)
    covered = rows(capsys, "cost", "coverage", counts_file)
    assert "even" in covered and "sequences" not in covered
    placed = rows(capsys, "cost", "placement", counts_file, "--devices", "4", "--copies", "4")
    assert "imbalance_fit" in placed and "reached" not in placed
    assert main(["cost", "cache", counts_file]) == 0
    said = capsys.readouterr().out
    assert "Counts of 8,502 tokens" in said and "Not known without the order of tokens: lru, lru_warm" in said


# Which tokens


@pytest.fixture
def written() -> RoutingTrace:
    """Two prompts of three tokens that begin with the same two, and two generated tokens behind the first."""
    model = ModelInfo("by hand", "test", (0,), (4,), 1)
    tokens = token_frame(
        np.array([0, 0, 0, 0, 0, 1, 1, 1]),
        np.array([0, 1, 2, 3, 4, 0, 1, 2]),
        ["x"] * 8,
        np.array([5, 6, 7, 8, 9, 5, 6, 8]),
        ["prompt"] * 3 + ["generated"] * 2 + ["prompt"] * 3,
    )
    tokens["segment"] = pd.Series(["turn", "user", "user", "answer", "answer", "turn", "user", "user"], dtype="str")
    return RoutingTrace(model, tokens, np.arange(8, dtype=np.int16)[None, :, None] % 4)


@pytest.mark.parametrize(
    ("options", "count", "said"),
    [
        ({}, 2, "2 tokens: generated ones. Repeated prefixes are kept."),
        ({"chunk": 2}, 6, "6 tokens: those of prompts."),
        ({"phase": "prompt", "keep_repeats": False}, 4, "2 of repeated prefixes are left out"),
        ({"phase": "all", "keep_repeats": False}, 6, "6 tokens: those of prompts and those generated."),
        ({"segment": "user"}, 4, "4 tokens: those of prompts and those generated, of the segment 'user'."),
        ({"segment": "user", "keep_repeats": False}, 3, "1 of repeated prefixes are left out"),
        ({"segment": "answer", "phase": "generated"}, 2, "2 tokens: generated ones, of the segment 'answer'."),
    ],
)
def test_phases_are_apart_and_repeats_go_where_asked(options, count, said, written):
    found = served_tokens(written, **options)
    assert len(found.trace.tokens) == count and said in found.said


def test_a_token_repeats_only_where_all_before_it_is_the_same(written):
    """Token 8 stands at place 2 of the second prompt and at place 3 of the first: that is no repeat."""
    assert np.flatnonzero(repeats(written)).tolist() == [5, 6]


def test_what_cannot_be_chosen_is_refused(written):
    prompts = written.select(tokens=(written.tokens["phase"] == "prompt").to_numpy())
    with pytest.raises(MissingField, match=r"6.*0"):
        served_tokens(prompts, "generated")
    with pytest.raises(MoevizError, match=f"'decode'.* {', '.join(PHASES)}"):
        served_tokens(written, "decode")
    with pytest.raises(MissingField, match=r"'tools'.* answer, turn and user"):
        served_tokens(written, segment="tools")
    unknown = replace(written, tokens=written.tokens.assign(token_id=np.int32(-1)))
    with pytest.raises(MissingField, match="ids"):
        served_tokens(unknown, keep_repeats=False)


def test_each_command_takes_the_tokens_of_one_segment(written, tmp_path, counts_file, dataset, capsys):
    file = tmp_path / "run.npz"
    write_trace(written, file)
    for segment, tokens in (("user", 4), ("answer", 2)):
        assert main(["metrics", str(file), "--segment", segment, "--json"]) == 0
        load = json.loads(capsys.readouterr().out)["expert_load"]
        assert sum(row["load"] for row in load) == pytest.approx(1) and len(load) == 4
        assert main(["convert", str(file), str(tmp_path / "part.csv"), "--segment", segment]) == 0
        assert len(read_trace(tmp_path / "part.csv").tokens) == tokens
        assert main(["cost", "cache", str(file), "--segment", segment]) == 0
        assert f"{tokens} tokens: " in capsys.readouterr().out
        for words in (["diff", str(file), str(file)], ["compare", str(file), str(file)]):
            assert main([*words, "--segment", segment, "--json"]) == 0
            assert re.search(rf'"tokens": {tokens}\b', capsys.readouterr().out)
    engine = ["--engine", "eplb", "--devices", "2", "-o", str(tmp_path / "plan.json")]
    assert main(["plan", str(file), *engine, "--segment", "user"]) == 0
    assert "4 tokens" in capsys.readouterr().out
    for without in (counts_file, str(dataset)):
        for words in (["metrics", without], ["cost", "cache", without]):
            assert main([*words, "--segment", "user"]) == 3
    for words in (["experts", "embedded"], ["cost", "prefetch", "embedded", "--texts", "ship"]):
        assert main([*words, "--segment", "user"]) == 3
        assert "--segment" in capsys.readouterr().err


def answered(capsys, *words: str) -> dict[str, dict]:
    """The answers of `moeviz decide` by question, and what was said on which tokens."""
    assert main(["decide", *words, "--json"]) == 0
    return {row["question"]: row for row in json.loads(capsys.readouterr().out)["answers"]}


def test_decide_answers_each_question_with_a_sentence_and_its_figures(file, tmp_path, capsys):
    found = answered(capsys, file, "--devices", "4")
    assert found[BALANCE]["verdict"] == "Too little evidence" and len(found[BALANCE]["figures"]) == 8
    assert found[MEMORY]["verdict"] == "Not worth it" and len(found[MEMORY]["figures"]) == 2
    assert all(row["sentence"] for row in found.values()) and len(found) == 6
    assert main(["decide", file, "--devices", "4"]) == 0
    out = capsys.readouterr().out
    assert f"{BALANCE}\n{in_lines(found[BALANCE]['sentence'])}\n" in out and "8,502 tokens: those of prompts" in out
    trace, hashed = read_trace(file), tmp_path / "hashed.npz"
    write_trace(replace(trace, model=replace(trace.model, caution="Layer 0 has a hash router.")), hashed)
    assert main(["decide", str(hashed), "--draft", "8", "--capacity", "2"]) == 0
    out = capsys.readouterr().out
    assert "8 tokens" in out and "Layer 0 has a hash router." in out


def test_decide_takes_a_dataset_s_shards_for_windows_and_its_labels_for_kinds(dataset, counts_file, capsys):
    found = answered(capsys, str(dataset))
    assert found[DRIFT]["verdict"] == "Loads drift" and len(found[BALANCE]["figures"]) == 8
    assert {row["windows"] for row in found[DRIFT]["figures"]} == {len(read_dataset(dataset).shards)}
    assert main(["decide", str(dataset), "--phase", "prompt"]) == 3
    assert "needs the experts of each token" in capsys.readouterr().err
    found = answered(capsys, counts_file)
    assert found[BALANCE]["verdict"] == "Not known" and not found[BALANCE]["figures"]


def test_prefetch_of_a_model_has_the_next_router_beside_the_others(tmp_path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"label": label, "text": f"{label} 12 + 7 = 19"}) for label in "abab"))
    found = rows(capsys, "cost", "prefetch", "embedded", "--texts", str(texts), "--tokens", "6")
    assert set(found) == {
        "layer",
        "m",
        "chance",
        *("popular", "previous_token", "layer_before", "recency", "next_router"),
    }
    assert found.loc[found["layer"] == 0, "next_router"].isna().all() and found["next_router"].max() == 1
    assert main(["cost", "prefetch", "embedded", "--texts", str(texts)]) == 0
    assert "half of each label's first.\nLearnt on the first half of the tokens" in capsys.readouterr().out
