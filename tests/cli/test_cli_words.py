"""The words of a command line: options anywhere, old spellings, help, versions, exit codes, and what completes them."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from opened_instead import open_instead
from processes import python

from moeviz.cli.main import COMMANDS, main, read_arguments
from moeviz.cli.options import CALLED
from moeviz.cli.options import IMPORT_OPTIONS as TOLD
from moeviz.formats.exports import write_trace
from moeviz.formats.importers.importer import CALLED as CALLED_THERE
from moeviz.formats.importers.importer import flag

PROMPT = "12 + 30 = 42"
LOADED = ("trace", "what-if", "ablate", "occlude", "attribute", "precision", "corpus")
IMPORTED = Path(__file__).parents[1] / "data" / "importers"
OF_A_MODEL = ("experts", "prune", "tune-targets")


@pytest.mark.parametrize(
    ("words", "others", "name", "value"),
    [
        (["what-if", "--mute", "3:1", PROMPT], {"prompt": PROMPT}, "mute", ["3:1"]),
        (["what-if", PROMPT, "--mute", "3:1", "4:2"], {"prompt": PROMPT}, "mute", ["3:1", "4:2"]),
        (["what-if", "--mute", "3:1,4;4:2", "--json", PROMPT], {"prompt": PROMPT}, "mute", ["3:1,4", "4:2"]),
        (["what-if", "--force", "3:1", "--force=4:2", PROMPT], {"prompt": PROMPT}, "force", ["3:1", "4:2"]),
        (["what-if", "--bias", "3:0=+2;3:5=-1", PROMPT], {"prompt": PROMPT}, "bias", ["3:0=+2", "3:5=-1"]),
        (["what-if", "--swap", "2", "0", "5", PROMPT], {"prompt": PROMPT}, "swap", [2, 0, 5]),
        (["ablate", "--layers", "3", PROMPT], {"prompt": PROMPT}, "layers", [3]),
        (["ablate", "--layers", "3", "4"], {"prompt": "4"}, "layers", [3]),
        (["ablate", "--layers", "2", "3", PROMPT], {"prompt": PROMPT}, "layers", [2, 3]),
        (["ablate", "-", "--layers", "2", "3"], {"prompt": "-"}, "layers", [2, 3]),
        (["ablate", "--layers", "2,3", "-f", "a.txt"], {"prompt": None}, "layers", [2, 3]),
        (["ablate", "--layers", "2", "--", "-x"], {"prompt": "-x"}, "layers", [2]),
        (["attribute", "--token", "-1", "--layer", "3", PROMPT], {"prompt": PROMPT}, "token", -1),
        (["trace", "--max-new-tokens", "3", "- a list"], {"prompt": "- a list"}, "max_new_tokens", 3),
        (["metrics", "--layers", "0", "5", "t.npz"], {"trace": "t.npz"}, "layers", [0, 5]),
        (["experts", "--layers", "3", "embedded", "t.jsonl"], {"source": "embedded"}, "texts", ["t.jsonl"]),
        (["experts", "--labels", "a.json", "embedded"], {"source": "embedded"}, "labels", ["a.json"]),
        (["prune", "embedded", "--cut", "1", "2", "t.jsonl"], {"texts": ["t.jsonl"]}, "cut", [1, 2]),
        (["prune", "--criteria", "reap,random", "embedded"], {"model": "embedded"}, "criteria", ["reap", "random"]),
        (["tune-targets", "--base", "b.jsonl", "m", "t.jsonl"], {"texts": ["t.jsonl"]}, "base", ["b.jsonl"]),
        (["corpus", "--ray", "t.jsonl", "-o", "f"], {"files": ["t.jsonl"]}, "ray", ""),
        (["corpus", "--ray", "host:6379", "t.jsonl", "-o", "f"], {"files": ["t.jsonl"]}, "ray", "host:6379"),
        (["watch", "--ignore", "aux_off", "run"], {"run": "run"}, "ignore", ["aux_off"]),
        (["cost", "cache", "--capacities", "2", "4", "t.npz"], {"file": "t.npz"}, "capacities", [2, 4]),
        (["params", "--memory", "--bits", "16,8", "m"], {"model": "m"}, "bits", [16, 8]),
        (["params"], {"known": False}, "model", "embedded"),
        (["contrast", "--kinds", "a", "b", "t.npz"], {"source": "t.npz", "other": None}, "kinds", ["a", "b"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_options_stand_anywhere_and_may_be_given_again(words, others, name, value):
    args = read_arguments(words)
    assert getattr(args, name) == value and {other: getattr(args, other) for other in others} == others


@pytest.mark.parametrize("name", LOADED + OF_A_MODEL)
def test_every_command_that_runs_a_model_says_how_it_is_loaded(name):
    words = {"what-if": ["a", "--mute=3:1"], "tune-targets": ["m", "t"], "corpus": ["--embedded"]}.get(name, ["a"])
    args = read_arguments(
        [name, "--dtype", "bfloat16", "--device-map", "cpu", "--backend", "transformers", "--ignore-memory", *words]
    )
    assert (args.dtype, args.device_map, args.backend, args.ignore_memory) == ("bfloat16", "cpu", "transformers", True)
    assert name in OF_A_MODEL or read_arguments([name, "--model", "m", *words]).model == "m"


def test_how_a_model_is_loaded_reaches_it(monkeypatch):
    asked = {}

    def load(name, **how):
        asked.update(how, name=name)
        raise OSError("so far")

    open_instead(monkeypatch, load)
    for name in ("ablate", "occlude", "attribute", "precision"):
        asked.clear()
        assert main([name, "--dtype", "bfloat16", "--device-map", "cpu", PROMPT]) == 3
        assert asked == {"name": "embedded", "backend": None, "dtype": "bfloat16", "device_map": "cpu"}


def test_options_of_files_are_called_as_those_of_other_commands():
    assert CALLED == CALLED_THERE
    for name in TOLD:
        assert getattr(read_arguments(["convert", "a.json", flag(name), "2", "b.npz"]), name) == 2


@pytest.mark.parametrize(
    ("words", "usage", "sentence"),
    [
        (["metrc", "t.npz"], "moeviz", "mean metrics"),
        (["metrics", "t.npz", "--topc", "load"], "moeviz metrics", "mean --topic?"),
        (["metrics", "t.npz", "--topic", "loads"], "moeviz metrics", "mean load?"),
        (["cost", "cahce", "t.npz"], "moeviz cost", "mean cache?"),
        (["cost", "cache", "t.npz", "--capacites", "3"], "moeviz cost cache", "mean --capacities?"),
        (["trace", "x", "--max_new_tokens", "4"], "moeviz trace", "mean --max-new-tokens?"),
        (["trace", "x", "--max-new-token", "4"], "moeviz trace", "--max-new-token"),
        (["trace", "x", "--top-k", "4"], "moeviz trace", "--sample-top-k"),
        (["precision", "x", "--to", "int4"], "moeviz precision", "no option --to.\n"),
        (["app", "--prot", "80"], "moeviz app", "mean --port?"),
        (["trace", "Hi", "there", "you"], "moeviz trace", 'you"'),
        (["trace", "x", "--max-new-tokens", "-3"], "moeviz trace", "--max-new-tokens"),
        (["trace", "x", "--max-new-tokens", "a"], "moeviz trace", "and got 'a'"),
        (["trace", "x", "--temperature", "nan"], "moeviz trace", "and got 'nan'"),
        (["trace"], "moeviz trace", "--prompt-file"),
        (["corpus", "a.txt", "--embedded"], "moeviz corpus", ""),
        (["convert", "a.npz"], "moeviz convert", "TO is missing"),
        (["trace", "x", "-f", "y"], "moeviz trace", "--prompt-file"),
        (["prune", "m", "--criteria", "luck"], "moeviz prune", "--criteria cannot be 'luck'"),
        (["ablate", "x", "--layers", "a"], "moeviz ablate", "and got 'a'"),
        (["plan", "a.npz", "b.npz", "--engine", "sglang", "-o", "c"], "moeviz plan", "'b.npz' is one"),
    ],
)
def test_a_wrong_command_line_is_a_line_of_usage_and_a_sentence(words, usage, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    first, second = capsys.readouterr().err.splitlines(keepends=True)
    assert stopped.value.code == 2 and first.startswith(f"usage: {usage} ")
    assert second.startswith("moeviz: ") and sentence in second


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["--version"], "moeviz 0."),
        (["-V"], "moeviz 0."),
        (["version"], "moeviz 0."),
        (["help"], "usage: moeviz ["),
        (["help", "trace"], "usage: moeviz trace"),
    ],
)
def test_help_and_versions_are_options_and_commands(words, begins, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0 and capsys.readouterr().out.startswith(begins)


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    assert "moeviz trace" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("embeded", "Did you mean embedded?"),
        ("http://localhost:8790", "vllm+http://localhost:8790"),
        ("texts.jsonl", "'texts.jsonl' is a file"),
    ],
)
def test_a_model_that_is_not_there_is_asked_about(model, named, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}')
    assert main(["trace", "x", "--model", model]) == 3
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bits", "prune", "experts"])
def test_a_file_of_texts_in_the_model_s_place_is_asked_about(name, capsys):
    assert main([name, "nothing.jsonl"]) == 3
    assert f"moeviz {name} embedded nothing.jsonl" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="There is a GPU.")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_one_sentence(device, capsys):
    assert main(["trace", "x", "--device-map", device]) == 3
    assert "no GPU that torch can use" in capsys.readouterr().err.splitlines()[-1]


def test_a_token_that_is_not_in_the_trace_is_an_error(trace, tmp_path, capsys):
    write_trace(trace, tmp_path / "t.npz")
    assert main(["metrics", str(tmp_path / "t.npz"), "--topic", "tokens", "--token", "400"]) == 3
    out, err = capsys.readouterr()
    assert not out and f"0 to {len(trace.tokens) - 1}" in err


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["occlude", PROMPT], "words"),
        (["attribute", PROMPT, "--layer", "3"], "parts"),
        (["metrics", "t.npz"], "balance"),
    ],
)
def test_findings_are_results_in_text_and_in_json(words, rows, trace, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    write_trace(trace, "t.npz")
    assert main([*words, "-q"]) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert rows in found and found["findings"][0] in printed


def test_a_prompt_comes_from_a_file_and_a_file_s_name_is_warned_of(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt.txt").write_bytes("\ufeffIl neige.".encode())
    read = []
    monkeypatch.setattr("moeviz.analyses.occlusion.occlude", lambda model, prompt, **_: read.append(prompt) or 1 / 0)
    for words in (["-f", "prompt.txt"], ["prompt.txt"]):
        with pytest.raises(ZeroDivisionError):
            main(["occlude", *words])
    warned = [line for line in capsys.readouterr().err.splitlines() if "also the name of a file" in line]
    assert read == [("Il neige.",), ("prompt.txt",)] and len(warned) == 1 and warned[0].endswith("-f prompt.txt")
    assert main(["occlude", "-f", "nowhere.txt"]) == 3
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    assert main(["occlude", "-f", "latin.txt"]) == 3
    said = capsys.readouterr().err
    assert "There is no file 'nowhere.txt'" in said and "not text in UTF-8" in said


@pytest.mark.parametrize("name", ["nope.gguf", "nope.pt", "nope.safetensors", "Il fait froid."])
def test_what_is_no_trace_s_name_and_is_not_there_is_said_so(name, capsys):
    assert main(["metrics", name]) == 3
    err = capsys.readouterr().err
    assert f"There is no file {name!r}." in err and "moeviz trace PROMPT" in err
    assert ("--model nope" in err) == name.endswith(("gguf", "safetensors"))


def test_a_corpus_s_file_that_is_not_there_is_said_before_the_model_is_loaded(monkeypatch, tmp_path, capsys):
    open_instead(monkeypatch, pytest.fail)
    for out in ("out", "out.npz"):
        assert main(["corpus", str(tmp_path / "typo.jsonl"), "-o", str(tmp_path / out)]) == 3
        assert "There is no file" in capsys.readouterr().err


def test_exit_codes_tell_a_finding_from_an_error(trace, tmp_path, capsys):
    """0 done, 1 found, 2 usage, 3 error."""
    good, odd, path = (str(tmp_path / name) for name in ("good.npz", "odd.bin", "none.npz"))
    write_trace(trace, good)
    (tmp_path / "odd.bin").write_bytes((IMPORTED / "mbolt.bin").read_bytes()[:-8])
    assert [main(["check", file]) for file in (good, odd, path)] == [0, 1, 3]
    with pytest.raises(SystemExit) as stopped:
        main(["check"])
    assert stopped.value.code == 2


def test_quiet_says_what_is_wrong_and_nothing_else(tmp_path, capsys, trace):
    write_trace(trace, tmp_path / "t.npz")
    for words in (["convert", str(tmp_path / "t.npz"), str(tmp_path / "u.csv")], ["check", "none.npz"]):
        for before, after in (([], []), (["-q"], []), ([], ["--quiet"])):
            main([*before, *words, *after])
            err = capsys.readouterr().err
            assert bool(err) == (words[0] == "check" or not (before or after)), (before, words, after)


def test_no_bar_of_transformers_is_drawn_where_nobody_watches():
    done = python("-m", "moeviz", "occlude", "a b")
    assert done.stderr.startswith("moeviz: loading embedded\n") and "Loading weights" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS) and "co-activation" in out and "--sample-top-k" in out


def test_completion_in_bash_offers_topics(tmp_path, capsys):
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    script = capsys.readouterr().out + "\nCOMP_WORDS=(moeviz metrics --topic co); COMP_CWORD=3; _shtab_moeviz\n"
    said = subprocess.run(["bash", "-c", script + 'echo "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["co-activation", "confidence", "coverage"]


def test_completion_without_what_writes_it_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("moeviz.cli.completion.find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 3
    assert "pip install shtab" in capsys.readouterr().err
