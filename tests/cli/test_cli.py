"""The command line: results on stdout, all else on stderr, and an exit code that a script can trust."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labels import labelled
from processes import python

import moeviz.cli
from moeviz import labelled_texts
from moeviz.capture.models.load import model_facts
from moeviz.capture.routers.families import families
from moeviz.charts import TOPICS
from moeviz.cli import corpus as cli_corpus
from moeviz.cli import output
from moeviz.cli import params as cli_params
from moeviz.cli.main import COMMANDS, main
from moeviz.cli.metrics import TOPICS as TOPIC_NAMES
from moeviz.cli.params import params_of
from moeviz.cli.trace import summary_of, summary_text
from moeviz.embedded.recorded_routing import reference_routing
from moeviz.formats.exports import left_out, read_counts, read_trace, write_trace
from moeviz.metrics.expert_names import expert_names
from moeviz.metrics.findings import findings
from moeviz.metrics.load import balance, expert_load
from moeviz.metrics.specialization import load_by_label
from moeviz.metrics.tokens import visible
from moeviz.parameters import CONVENTIONS, active_parameters
from moeviz.testing import sample_trace


@pytest.fixture
def trace_path(trace, tmp_path) -> str:
    write_trace(trace, tmp_path / "trace.npz")
    return str(tmp_path / "trace.npz")


def test_help_is_there_without_torch_streamlit_altair_or_pandas():
    code = """
import sys
from moeviz.cli.main import main
try:
    main(["--help"])
finally:
    heavy = {"torch", "transformers", "streamlit", "altair", "pyarrow.parquet", "pandas", "numpy"}
    print("loaded:", sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "moeviz convert trace.csv trace.parquet" in done.stdout
    assert done.stdout.endswith("loaded: []\n")


@pytest.mark.skipif(sys.platform != "linux", reason="Only GNU's OpenMP says how its threads wait.")
@pytest.mark.parametrize(("given", "spins"), [({}, False), ({"OMP_WAIT_POLICY": "active"}, True)])
def test_torch_s_threads_sleep_while_they_wait_unless_the_environment_says_otherwise(given, spins):
    code = "from moeviz.cli.main import main; main(['metrics', 'nothing.npz']); import torch"
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = kept | {"OMP_DISPLAY_ENV": "verbose"} | given
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    times = set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", said.stderr))  # 300,000 where nobody asks for anything
    assert times and (times != {"0"}) == spins


def test_python_m_moeviz_is_the_command():
    done = python("-m", "moeviz", "convert", "a.txt", "b.csv")
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith("moeviz: There is no file 'a.txt'.") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_that_parse(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"moeviz {name}" in capsys.readouterr().out and f"moeviz {name}" in COMMANDS[name]["examples"]


def test_every_file_of_a_command_is_in_the_table():
    files = {path.stem for path in Path(moeviz.cli.__path__[0]).glob("*.py")}
    assert {name.replace("-", "_") for name in COMMANDS} == files - {
        "__init__",
        "checkout",
        "inputs",
        "main",
        "options",
        "output",
        "words",
    }


def test_a_command_imports_its_own_file_and_not_those_of_the_others():
    code = "import sys; from moeviz.cli.main import parser; words = ['diff', 'a.npz', 'b.npz']"
    code += "; parser(words).parse_args(words)"
    code += "; print(*(name for name in sys.modules if name.startswith(('moeviz.', 'pandas.core'))))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = ("_lazy", "_viewers", "errors", "interrupted", "text")
    files = ("cli", "cli.main", "cli.diff", "cli.options", "cli.output", "cli.words")
    assert set(said) == {f"moeviz.{name}" for name in (*ours, *files)}


def test_topics_are_those_of_the_charts():
    assert tuple(name.lower() for name in TOPICS) == TOPIC_NAMES


def test_the_usage_of_what_if_shows_that_its_changes_exclude_each_other(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        main(["what-if", "--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    assert re.search(r"\(--mute [^()]* \| --replay TRACE\) \[--no-reroute\] \[--live-weights\]", usage)


# moeviz trace


def test_trace_writes_a_file_that_opens_again(tmp_path, capsys):
    path = tmp_path / "out.parquet"
    assert main(["trace", "Il fait froid.", "--max-new-tokens", "3", "-o", str(path)]) == 0
    trace = read_trace(path)
    assert trace.model.name == "embedded" and "Il fait froid." in "".join(trace.tokens["text"])
    out, err = capsys.readouterr()
    assert f"wrote {path}" in err and "wrote" not in out
    assert f"{len(trace.model.layers)} with experts" in out


def test_the_summary_in_json_names_the_busiest_expert_of_each_layer(tmp_path, capsys):
    path = str(tmp_path / "out.npz")
    assert main(["trace", "Il fait froid.", "--max-new-tokens", "2", "--json", "-o", path]) == 0
    summary, trace = json.loads(capsys.readouterr().out), read_trace(path)
    load = expert_load(trace)
    busiest = load[load["rank"] == 1]
    assert [row["expert"] for row in summary["busiest"]] == busiest["expert"].tolist()
    assert [row["load"] for row in summary["busiest"]] == busiest["load"].tolist()
    phases = trace.tokens["phase"].value_counts().to_dict()
    assert summary["tokens"] == phases and summary["top_k"] == trace.model.top_k
    assert summary["generated"] == "".join(trace.tokens["text"][trace.tokens["phase"] == "generated"])


def test_the_checkpoint_s_own_settings_are_an_option(tmp_path, capsys):
    path, options = str(tmp_path / "out.npz"), ["--max-new-tokens", "3", "--decoding", "checkpoint", "--seed", "4"]
    assert main(["trace", "Il fait froid.", *options, "-o", path]) == 0
    own = "the checkpoint's own settings: sampled at temperature 0.7, top-k 40, seed 4"
    assert f"decoding   {own}" in capsys.readouterr().out and read_trace(path).model.decoding == own
    assert main(["trace", "Il fait froid.", *options, "--num-beams", "2"]) == 3
    assert "Leave out the options for beams" in capsys.readouterr().err


def test_counts_alone_are_written_where_they_are_asked_for(corpus, tmp_path, capsys):
    """Of a prompt, of labelled texts, of a trace that is there and of a dataset: no token is in any of them."""
    whole, labelled, folder = (str(tmp_path / name) for name in ("whole.npz", "labelled.npz", "folder"))
    assert main(["trace", "Il fait froid.", "-o", whole]) == 0
    assert main(["corpus", *corpus, "-o", labelled]) == 0
    assert main(["convert", labelled, folder]) == 0
    by_label, of_all = (read_trace(path) for path in (labelled, whole))
    for words, counts in (
        (["trace", "Il fait froid."], of_all.counts()),
        (["corpus", *corpus], by_label.counts_by_label()),
        (["convert", whole], of_all.counts()),
        (["convert", labelled], by_label.counts_by_label()),
        (["convert", folder], by_label.counts_by_label()),
    ):
        for suffix in (".json", ".csv"):
            target = tmp_path / f"counts{suffix}"
            assert main([*words, "--counts-only", *([] if words[0] == "convert" else ["-o"]), str(target)]) == 0
            said = target.read_text("utf-8")
            assert "froid" not in said and "token_id" not in said
        found = read_counts(tmp_path / "counts.json")
        assert (found.assignments == counts.assignments).all() and found.groups == counts.groups
    assert "wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trace", "a"], "a name that ends in .json"),
        (["trace", "a", "-o", "a.npz"], "'a.npz'"),
        (["corpus", "--embedded"], "a name that ends in .json"),
        (["corpus", "--embedded", "-o", "folder"], "--counts-only"),
        (["convert", "a.npz", "folder"], "--counts-only"),
    ],
)
def test_counts_alone_need_a_file_of_counts_before_anything_runs(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr("moeviz.capture.models.load.load_model", pytest.fail)
    assert main([*words, "--counts-only"]) == 3
    assert sentence in capsys.readouterr().err


def test_trace_reads_the_prompt_from_standard_input(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Il neige.\n"))
    path = tmp_path / "out.json"
    assert main(["trace", "-", "--no-logits", "-o", str(path)]) == 0
    trace = read_trace(path)
    assert "".join(trace.tokens["text"]).endswith("Il neige.") and trace.logits is None


@pytest.mark.parametrize(("prompt", "sentence"), [("", "prompt"), ("\udcff", "not text in UTF-8")])
def test_a_prompt_that_cannot_run_gets_one_sentence(prompt, sentence, capsys):
    assert main(["trace", prompt]) == 3
    out, err = capsys.readouterr()
    assert out == "" and sentence in err


# moeviz corpus


@pytest.fixture
def corpus(tmp_path) -> list[str]:
    """Two French texts and one of Python, in three files."""
    (tmp_path / "French.txt").write_bytes("\ufeffIl fait froid.\r\n".encode())
    (tmp_path / "Python").write_text("for i in range(3):\n    print(i)\n")
    lines = [{"label": "French", "text": "Où est la gare\u2028?", "source": "none"}]
    (tmp_path / "more.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n")
    return [str(tmp_path / name) for name in ("French.txt", "Python", "more.jsonl")]


def test_corpus_files_are_read_to_the_letter(corpus):
    assert cli_corpus.texts_at(corpus) == [
        ("French", "Il fait froid.\r\n"),
        ("Python", "for i in range(3):\n    print(i)\n"),
        ("French", "Où est la gare\u2028?"),
    ]


def test_corpus_writes_a_labelled_trace_that_metrics_read(corpus, tmp_path, capsys):
    path = str(tmp_path / "out.csv")
    assert main(["corpus", *corpus, "-o", path]) == 0
    out, err = capsys.readouterr()
    trace = read_trace(path)
    assert trace.tokens.groupby("sequence")["label"].first().tolist() == ["French", "Python", "French"]
    assert f"wrote {path}" in err and "embedded: " in out and "3 sequences, 2 labels" in out
    assert main(["metrics", path, "--topic", "specialization", "--all"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("load_by_label", "label_information", "label_divergence"))


def test_corpus_shows_the_layer_whose_experts_tell_most_or_the_one_asked_for(corpus, capsys):
    assert main(["corpus", *corpus, "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    bits = pd.DataFrame(tables["label_information"]).set_index("layer")["information"]
    loads = pd.DataFrame(tables["load_by_label"])
    assert set(tables) == {"model", "label_information", "load_by_label", "label_divergence", "locality_by_label"}
    for asked, layer in (([], bits.idxmax()), (["--layer", str(bits.idxmin())], bits.idxmin())):
        assert main(["corpus", *corpus, *asked]) == 0
        out = capsys.readouterr().out
        assert f"Layer {layer}: share of each label's assignments" in out
        shares = loads[(loads["layer"] == layer) & (loads["label"] == "Python")]["share"]
        (row,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["Python"]]
        assert [float(cell) for cell in row[1:]] == pytest.approx((100 * shares).tolist(), abs=0.051)


def test_corpus_of_one_text_a_label_says_that_nothing_can_be_shuffled(corpus, capsys):
    assert main(["corpus", *corpus[:2]]) == 0
    assert "nothing to shuffle. Give several texts per label" in capsys.readouterr().out


def test_corpus_of_one_label_prints_what_there_is_and_says_what_is_not(corpus, capsys):
    assert main(["corpus", corpus[0], "--json"]) == 0
    out, err = capsys.readouterr()
    assert "label_divergence" not in json.loads(out) and "A comparison of labels needs two or more" in err


def test_corpus_reads_the_held_out_texts_that_ship(monkeypatch, capsys):
    shipped = labelled_texts.evaluation_set()
    few = [next(text for text in shipped if text.label == label) for label in sorted({t.label for t in shipped})[:2]]
    monkeypatch.setattr(labelled_texts, "evaluation_set", lambda: tuple(few))
    assert main(["corpus", "--embedded", "--json"]) == 0
    loads = json.loads(capsys.readouterr().out)["load_by_label"]
    assert {row["label"] for row in loads} == {text.label for text in few}


def test_the_texts_that_ship_are_several_a_label():
    labels = pd.Series([label for label, text in labelled_texts.texts_that_ship() if text])
    assert labels.value_counts().min() > 1


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", b"\xff\xfe", "'a.txt'"),
        ("a.txt", b" \n", "'a.txt' is empty"),
        ("a.jsonl", b'{"label": "x", "text": "y"}\n{"label": ', "'a.jsonl'"),
        ("a.jsonl", b'{"label": "x"}', "line 1"),
        ("a.jsonl", b'{"label": "x", "text": "\\ud800"}', "line 1"),
    ],
)
def test_a_corpus_file_that_holds_no_texts_gets_one_sentence(name, content, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("moeviz.capture.models.load.load_model", pytest.fail)
    (tmp_path / name).write_bytes(content)
    assert main(["corpus", str(tmp_path / name)]) == 3
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and err.count("\n") == 1


def test_a_layer_that_the_corpus_model_lacks_is_said_before_it_runs(corpus, monkeypatch, capsys):
    monkeypatch.setattr("moeviz.capture.corpus.trace", pytest.fail)
    assert main(["corpus", *corpus, "--layer", "99"]) == 3
    assert "embedded has no MoE layer 99. Choose one of 0, 1" in capsys.readouterr().err


def test_of_many_experts_the_busiest_of_each_label_are_named():
    trace = labelled(sample_trace(tokens=60, experts=64, top_k=4))
    out = cli_corpus.report(trace, 2)
    load = load_by_label(trace.select(layers=[2])).query("label == 'code'")
    top = load.sort_values("share", ascending=False, kind="stable").iloc[0]
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["code"]]
    assert line.split("code")[1].strip().startswith(f"{top['expert']} ({100 * top['share']:.1f})  ")
    assert line.count("(") == cli_corpus.BUSIEST


def test_a_label_cannot_steer_the_terminal():
    out = cli_corpus.report(labelled(sample_trace(), ("\x1b[2J\n", "b")), None)
    assert "\x1b" not in out and "⟨U+001B⟩[2J⏎" in out


# moeviz params


def test_params_prints_the_numbers_of_every_convention(capsys):
    assert main(["params", "embedded"]) == 0
    out, counts = capsys.readouterr().out, model_facts("embedded").parameters
    assert f"{counts.total:,}" in out and f"{counts.routed_experts:,}" in out
    for convention in CONVENTIONS:
        assert f"active, {convention}" in out and f"{active_parameters(counts, 2, convention):,}" in out
    numbers = out.partition("\n\n")[0].splitlines()[1:]
    assert len({len(line) for line in numbers}) == 1  # aligned


def test_params_of_a_well_known_model_stand_beside_its_maker_s_without_a_network(capsys):
    assert main(["params", "mistralai/Mixtral-8x7B-v0.1"]) == 0
    assert "46,702,792,704" in (out := capsys.readouterr().out)
    assert "Its maker says 46.7 billion, 12.9 active, counting everything" in out
    assert main(["params", "--known", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) >= 15 and rows[0]["total"] == pytest.approx(46.70, abs=0.01)


def test_params_says_what_fits_into_cards_and_what_bitsandbytes_packs(capsys):
    """Mixtral's 46.7 billion parameters in 16 bits, on two cards of 48 GB: 93.4 GB, and 86.4 GB to use."""
    asked = ["params", "mistralai/Mixtral-8x7B-v0.1", "--gpu-memory", "48", "--gpus", "2", "--context", "4096"]
    assert main(asked) == 0
    text = capsys.readouterr().out
    assert "8 bits" in text and "86.4 GB" in text and "2 × 48 GB" in text
    assert main([*asked, "--json"]) == 0
    fits = json.loads(capsys.readouterr().out)["fits"]
    whole, packed = fits["by_precision"][0], fits["bitsandbytes"]
    parts = ("experts", "other_weights", "keys_and_values", "step")
    assert whole["weight_bits"] == 16 and sum(whole[part] for part in parts) == pytest.approx(whole["together"])
    assert whole["experts"] == pytest.approx(32 * 8 * 3 * 4096 * 14336 * 2 / 1e9)
    # Queries and outputs of 4096 x 4096, keys and values of 1024 x 4096, in each of 32 layers.
    assert packed["packed"] == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024) and packed["packed_of_experts"] == 0
    assert packed["together"] == pytest.approx(whole["together"] - 1.5 * packed["packed"] / 1e9)
    assert (
        not packed["fits"]
        and f"pack {packed['packed']:,} of 46,702,792,704 parameters, none of them in experts" in text
    )


@pytest.mark.parametrize("name", ["embedded", "openai/gpt-oss-20b", "google/switch-c-2048"])
def test_params_of_a_table_are_those_that_are_counted(name, monkeypatch):
    written = params_of(name, 4096)
    cli_params._served_facts.cache_clear()
    monkeypatch.setattr("moeviz.serving.memory.known_model", lambda _name: None)
    assert params_of(name, 4096) == written
    cli_params._served_facts.cache_clear()


def test_params_of_a_well_known_model_need_no_torch():
    code = "import sys; from moeviz.cli.main import main; main(['params', 'embedded']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_params_in_json_adds_up(capsys):
    assert main(["params", "embedded", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sum(facts["parts"].values()) == facts["total"]
    assert set(facts["active"]) == set(CONVENTIONS)


# moeviz metrics


def test_metrics_prints_every_number_as_json(trace, trace_path, capsys):
    assert main(["metrics", trace_path, "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    printed = pd.DataFrame(tables["expert_load"])
    assert printed["load"].tolist() == pytest.approx(expert_load(trace)["load"].tolist(), abs=1e-14)
    assert set(tables) == {"findings", *(chart.measure.__name__ for chart in TOPICS["Load"])}


@pytest.mark.parametrize("topic", ["tokens", "load", "confidence"])
def test_metrics_prints_a_table_for_each_metric_of_a_topic(topic, trace_path, capsys):
    assert main(["metrics", trace_path, "--topic", topic, "--token", "3", "--all"]) == 0
    out = capsys.readouterr().out.splitlines()
    for chart in TOPICS[topic.title()]:
        assert chart.measure.__name__ in out


def test_metrics_of_two_layers_take_the_first_and_the_last_unless_others_are_named(trace, trace_path, capsys):
    said = {}
    for layers in ("", "0,3", "1,2", "0"):
        code = main(["metrics", trace_path, "--topic", "layers", "--json", *([f"--layers={layers}"] if layers else [])])
        said[layers], err = capsys.readouterr()
        assert code == (3 if layers == "0" else 0) and ("Give --layers A,B" in err) == (layers == "0")
    assert said[""] == said["0,3"] != said["1,2"] and "ranked_load" in said[""]


def test_metrics_speak_first_and_print_one_table(trace, trace_path, capsys):
    """Check that the sentence is the charts' own, the table is of all layers, and --all has every table."""
    found = TOPICS["Load"][2].caption(balance(trace))
    assert main(["metrics", trace_path]) == 0
    out = capsys.readouterr().out
    assert out.startswith(found) if found else "layer" in out.splitlines()[0]
    rows = [line for line in out.splitlines() if re.match(r" +\d", line)]
    assert len(rows) == len(trace.model.layers) and "3 more tables of load. More: --all" in out
    assert main(["metrics", trace_path, "--topic", "tokens"]) == 0
    out, err = capsys.readouterr()
    assert all(finding.sentence in out for finding in findings(trace)) and err == ""
    assert [int(word) for word in re.findall(r"^ +0 .*", out, re.MULTILINE)[0].split()[-4:]] == [
        int(first) for first in trace.experts[:, 0, 0]
    ]


def test_a_table_is_no_wider_than_the_terminal_and_names_what_is_left_out(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "70")
    assert main(["families"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= 70 and "more columns with --wide:" in " ".join(table) and "exact" in table[-1]
    assert main(["families", "--wide"]) == 0
    assert "exact" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("columns", [1, 3, 30, 4_000])
def test_as_many_columns_are_shown_as_fit_and_a_few_of_the_others_are_named(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    frame = pd.DataFrame([[10 ** (n % 5) for n in range(columns)]], columns=[f"layer {n}" for n in range(columns)])
    lines = output.fitting_text(frame).splitlines()
    shown = lines[0].count("layer")
    assert max(map(len, lines)) <= 70 and lines[:2] == output.frame_text(frame.iloc[:, :shown]).splitlines()
    assert shown == columns or len(output.frame_text(frame.iloc[:, : shown + 1]).splitlines()[0]) > 70
    said = f"{columns - shown:,} more columns with --wide: layer {shown}, layer {shown + 1}, "
    assert shown == columns or (" ".join(lines[2:]).startswith(said) and len(lines) < 8)
    assert shown == columns or lines[-1].endswith(f"layer {columns - 1}")


def test_one_family_is_a_card_and_an_unknown_one_names_what_is_near(capsys):
    assert main(["families", "qwen3moe"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^architecture +qwen3_moe$", out, re.MULTILINE) and "mixtral" not in out
    assert main(["families", "mixtrl"]) == 3
    assert "Did you mean mixtral" in capsys.readouterr().err


def test_metrics_of_one_token_need_one(trace_path, capsys):
    assert main(["metrics", trace_path, "--topic", "tokens", "--all"]) == 0
    out, err = capsys.readouterr()
    assert "--token N, from 0 to 31" in err and "token_choices" in out and "token_routes" not in out


def test_what_a_trace_does_not_hold_is_said_beside_what_it_does(ids_only_trace, tmp_path, capsys):
    write_trace(ids_only_trace, tmp_path / "ids.csv")
    assert main(["metrics", str(tmp_path / "ids.csv"), "--all"]) == 0
    out, err = capsys.readouterr()
    assert "expert_load" in out and "needs router logits" in err
    assert main(["metrics", str(tmp_path / "ids.csv"), "--topic", "confidence"]) == 3
    assert capsys.readouterr().out == ""


def test_a_layer_that_is_not_there_is_named(trace_path, capsys):
    assert main(["metrics", trace_path, "--layers", "9"]) == 3
    assert "has no MoE layer 9" in capsys.readouterr().err


def test_a_token_cannot_steer_the_terminal(trace, tmp_path, capsys):
    hostile = trace.tokens.assign(text=pd.Series(["\x1b[2J\n"] * len(trace.tokens), dtype="str"))
    write_trace(replace(trace, tokens=hostile), tmp_path / "hostile.json")
    assert main(["metrics", str(tmp_path / "hostile.json"), "--topic", "tokens"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "⟨U+001B⟩[2J⏎" in out


# moeviz convert


def test_convert_keeps_everything_and_says_what_stays_behind(trace, trace_path, tmp_path, capsys):
    assert main(["convert", trace_path, str(tmp_path / "b.json")]) == 0
    assert "cannot be read back" not in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "b.json"), str(tmp_path / "c.csv")]) == 0
    assert left_out(trace, ".csv") in capsys.readouterr().err
    assert read_trace(tmp_path / "b.json").equals(trace)
    assert read_trace(tmp_path / "c.csv").equals(replace(trace, logits=None))


def test_a_damaged_file_gets_one_sentence(tmp_path, capsys):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "b.csv")]) == 3
    assert capsys.readouterr().err.startswith("moeviz: This is not a .npz trace file")
    assert not (tmp_path / "b.csv").exists()


# how commands end


def test_a_reader_that_has_read_enough_is_no_error(trace_path, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = python("-m", "moeviz", "metrics", trace_path, "--json", stdout=writing)
    os.close(writing)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_ctrl_c_ends_without_a_traceback(monkeypatch, trace_path, capsys):
    def interrupted(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("moeviz.formats.exports.read_counted", interrupted)
    assert main(["convert", trace_path, "b.csv"]) == 130
    assert capsys.readouterr().err == "moeviz: stopped\n"


def test_ctrl_c_before_a_command_has_begun_ends_without_a_traceback(monkeypatch, capsys):
    """While its own file is imported, and what its arguments need."""

    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("moeviz.cli.main.command", interrupted)
    assert main(["convert", "a.csv", "b.csv"]) == 130
    assert capsys.readouterr().err == "moeviz: stopped\n"


def test_progress_is_a_line_on_a_terminal_and_elsewhere_one_every_ten_seconds(monkeypatch, capsys):
    clock = iter([0.0, 9.0, 10.0, 11.0, 20.0, 30.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    for done in range(1, 6):
        output.progress(done, 6, says="read {} of {} texts")
    assert capsys.readouterr().err == ("moeviz: read 3 of 6 texts, 15 s left\nmoeviz: read 5 of 6 texts, 5 s left\n")
    monkeypatch.undo()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    output.progress(1, 2)
    output.progress(2, 2)
    assert capsys.readouterr().err == "\rmoeviz: generated 1 of 2 tokens\rmoeviz: generated 2 of 2 tokens\n"


def test_a_long_table_is_cut_on_a_terminal_unless_all_of_it_is_asked_for(monkeypatch):
    long = pd.DataFrame({"row": range(15_366)})
    assert len(output.frame_text(long.head(100)).splitlines()) == 101
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for text in (output.frame_text(long), *output.frame_texts(long)):
        *rows, last = text.splitlines()
        assert len(rows) == 41 and "15,366" in last and "--all" in last
    output.ALL.set()
    assert len(output.frame_text(long.head(100)).splitlines()) == 101
    output.ALL.clear()


@pytest.mark.parametrize(
    ("words", "after", "result"),
    [
        (["corpus", "one.txt", "two.txt", "three.txt", "-o", "part.npz"], 2, "2 sequences"),
        (
            [
                "prune",
                "embedded",
                *["one.txt", "two.txt", "three.txt", "four.txt"],
                "--cut",
                "1",
                "--criteria",
                "reap,random",
            ],
            11,
            "1 text",
        ),
        (["tune-targets", "embedded", "one.txt", "two.txt", "three.txt", "four.txt", "five.txt"], 4, "layer"),
    ],
)
def test_what_was_read_is_kept_when_a_command_is_stopped(monkeypatch, tmp_path, capsys, words, after, result):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("one", "two", "three", "four", "five")):
        Path(f"{name}.txt").write_text(f"12 + {number} = {12 + number}")
    shown = []

    def clock():
        if signal.getsignal(signal.SIGINT) is output._stop_reading:  # the model is loaded
            shown.append(0.0)
        if len(shown) == after:
            signal.raise_signal(signal.SIGINT)
        return 0.0

    monkeypatch.setattr(output.time, "monotonic", clock)
    assert main([*words, "-q"]) == 130
    assert result in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(shown) <= 2 * after  # of the 60 texts that it compares with, tune-targets reads as many
    if "-o" in words:
        assert read_trace("part.npz").tokens["sequence"].nunique() == 2


def test_a_summary_says_what_is_not_as_in_most_models():
    trace = sample_trace(layers=2)
    odd = replace(trace.model, num_experts=(9, 8), site="encoder", layer_kind="unrolled layer", zero_experts=1)
    text = summary_text(summary_of(replace(trace, model=odd, logits=None)))
    assert "8 or 9 per layer, the last 1 of which compute nothing, 2 per token" in text
    assert "its encoder routers\n" in text and "unrolled layers 2 with experts\n" in text


def test_what_if_tells_the_effect_and_writes_the_changed_trace(tmp_path, capsys):
    target = tmp_path / "changed.npz"
    assert main(["what-if", "12 + 7 = 19", "--mute", "3:1,4", "2:0", "-o", str(target)]) == 0
    out = capsys.readouterr().out
    assert "loss per token" in out and "KL, mean of tokens" in out
    changed = read_trace(target)
    assert not np.isin(changed.experts[3], [1, 4]).any() and not (changed.experts[2] == 0).any()
    assert main(["what-if", "12 + 7 = 19", "--replay", str(target), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = told["effect"]
    assert (
        len(told["findings"]) == 1
        and len(rows) == len(changed.tokens)
        and rows[0]["loss"] is None
        and rows[1]["loss"] > 0
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--mute", "3"], "LAYER:EXPERT"),
        (["--experts-per-token", "9"], "1 to 8 experts"),
        (["--swap", "0", "1", "1"], "1 cannot"),
    ],
)
def test_what_if_says_what_cannot_be_changed(change, says, capsys):
    assert main(["what-if", "12 + 7 = 19", *change]) == 3
    assert says in capsys.readouterr().err


def test_ablate_ranks_experts(capsys):
    assert main(["ablate", "12 + 7 = 19", "--layers", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 8 and {row["layer"] for row in rows} == {2}
    names = expert_names(reference_routing()).set_index(["layer", "expert"])["name"]
    assert [row["name"] for row in rows] == [names[2, row["expert"]] for row in rows], "from held-out texts"
    assert [row["kl"] for row in rows] == sorted((row["kl"] for row in rows), reverse=True)


def test_families_prints_the_table_and_how_many_are_exact(capsys):
    assert main(["families"]) == 0
    said = capsys.readouterr().out
    exact = re.search(r"\d+ of (\d+) architectures are recorded exactly", said)
    assert main(["families", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    architectures = len({row["architecture"] for row in rows})
    assert exact and f"\n{len(rows)} rows of {architectures} architectures: " in said and exact[1] == str(architectures)
    assert {"architecture", "router", "exact", "kernels"} <= rows[0].keys()


def test_families_finds_what_an_installed_transformers_does_otherwise(monkeypatch, capsys):
    table = families()
    here = table[table["architecture"].isin(["mixtral", "olmoe"])].replace("OlmoeTopKRouter", "OldRouter")
    monkeypatch.setattr("moeviz.capture.routers.families.families", lambda: here)
    monkeypatch.setattr("survey.checkpoints.every_architecture", lambda: ["mixtral", "olmoe"])
    assert main(["families", "--check"]) == 1
    out = capsys.readouterr().out.split("\n\n", 1)[1]
    assert "OldRouter" in out and "OlmoeTopKRouter" in out and "MixtralTopKRouter" not in out


# moeviz precision, and more of params and trace


def test_precision_prints_every_precision_and_layer(capsys):
    assert main(["precision", "12 + 7 = 19, und heute", "--json"]) == 0
    rows = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert rows.groupby("precision").size().to_dict() == {"bfloat16": 6, "float16": 6, "int8": 6}
    assert main(["what-if", "12 + 7 = 19", "--precision", "int8"]) == 0
    assert "KL, mean of tokens" in capsys.readouterr().out


def test_params_says_what_a_trace_touched_and_which_cards_hold_the_model(capsys, tmp_path):
    path = tmp_path / "sums.npz"
    assert main(["trace", "12 + 7 = 19", "-o", str(path)]) == 0
    assert main(["params", "embedded", "--trace", str(path), "--context", "100", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["active"][CONVENTIONS[0]] < facts["touched"]["parameters"] <= facts["total"]
    assert facts["cache"] == {"tokens": 100, "bytes": 100 * 6 * 2 * 2 * 64 * 2}
    assert facts["weight_bytes"]["16"] == 2 * facts["total"]
    assert set(facts["cards"]["H100"].values()) == {1}
    assert main(["params", "mistralai/Mixtral-8x7B-v0.1", "--trace", str(path)]) == 3
    assert "Give a trace of this model" in capsys.readouterr().err


def test_trace_takes_other_ways_to_generate(capsys):
    assert main(["trace", "Il", "--max-new-tokens", "3", "--num-beams", "2", "--num-return-sequences", "2"]) == 0
    assert "4 generated" in capsys.readouterr().out
    assert main(["trace", "Il", "--max-new-tokens", "3", "--num-return-sequences", "2"]) == 3
    assert "The most likely tokens are the same every time" in capsys.readouterr().err


# moeviz history


def test_history_lists_trains_and_checks(tmp_path, capsys):
    assert main(["history"]) == 0
    assert "local-experts" in capsys.readouterr().out
    path = tmp_path / "1991.npz"
    assert main(["history", "run", "local-experts", "--seed", "3", "-o", str(path)]) == 0
    assert read_trace(path).model.layer_kind == "epoch"
    assert main(["history", "run", "no-such"]) == 3
    capsys.readouterr()
    assert main(["history", "check", "counts", "--json"]) == 0
    rows = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert len(rows) == 13 and rows["passed"].all()
    assert rows.set_index("what")["remark"].str.contains("64 experts, as Table 9 says: half").sum() == 1
    assert main(["history", "check", "no-such"]) == 3


def test_history_check_all_is_the_check_without_a_name(monkeypatch, capsys):
    asked, table = (
        [],
        pd.DataFrame({"system": "counts", "what": "sum", "ours": [1.0], "paper": 1.0, "kind": "measured"}),
    )
    table = table.assign(tolerance="exactly", passed=True, remark="")
    monkeypatch.setattr(
        "history_checks.claims_text.check_claims", lambda names, *rest: asked.append(names) or iter([table])
    )
    assert main(["history", "check", "all"]) == main(["history", "check"]) == 0
    assert asked == [[], []] and capsys.readouterr().out.count("CPU time: ") == 2


def test_history_check_says_that_it_needs_a_checkout(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("moeviz.cli.checkout.CHECKOUT", tmp_path)
    assert main(["history", "check", "counts", "--controls"]) == 3
    told = capsys.readouterr()
    assert "python -m moeviz history check" in told.err and "in a checkout of the repository" in told.err
    assert not told.out and len(told.err.splitlines()) == 1


# moeviz compare


@pytest.fixture
def three_paths(tmp_path) -> list[str]:
    """Files of three traces of the same tokens, the last of a model with 31 experts."""
    paths = [str(tmp_path / f"{name}.npz") for name in "abc"]
    for path, experts, top_k in zip(paths, (8, 8, 31), (2, 2, 7), strict=True):
        write_trace(sample_trace(experts=experts, top_k=top_k), path)
    return paths


def test_compare_prints_a_column_a_trace_and_the_sentences(three_paths, capsys):
    assert main(["compare", *three_paths]) == 0
    out = capsys.readouterr().out
    assert re.search(r"num_experts +8 +8 +31\n", out) and re.search(r"possible_sets +28 +28 +2,629,575\n", out)
    assert all(number in out for number in ("8 of 28", "32 of 2,629,575"))
    assert "Of Mixtral 8x7B, published, the first choice repeats beyond chance: layer 0 2%" in out
    assert re.search(r"information +· +· +·\n", out), "there are no labels"


def test_compare_in_json_has_the_layers_of_each_trace(three_paths, capsys):
    assert main(["compare", *three_paths[1:], "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert "moeviz diff" not in told.err, "of other models, no token can be held against itself"
    assert main(["compare", *three_paths[:2]]) == main(["diff", *three_paths[:2]]) == 0
    assert f"moeviz diff {three_paths[0]} {three_paths[1]}" in capsys.readouterr().err
    assert [row["trace"] for row in found["traces"]] == ["A", "B"]
    assert len(found["sets"]) == len(found["balance"]) == 8 and found["information"] is None
    of_trace = [row["over_chance"] for row in found["repetition"] if row["trace"] == "A"]
    assert sum(of_trace) / len(of_trace) == pytest.approx(found["traces"][0]["repetition"])


def test_compare_says_of_too_many_and_of_one_what_it_needs(three_paths, capsys):
    assert main(["compare", *three_paths * 3]) == 3
    assert "Up to 8 traces are compared, and 9 are named" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", three_paths[0]])


def test_trace_writes_next_tokens_and_outputs_where_they_are_asked_for_and_refuses_files_without_them(tmp_path, capsys):
    path = tmp_path / "trace.npz"
    assert main(["trace", "Il fait froid.", "--next-tokens", "-o", str(path), "--json"]) == 0
    told, kept = json.loads(capsys.readouterr().out)["next"], read_trace(path).next_tokens
    assert [(row["text"], row["p"]) for row in told] == kept.after(-1) and kept.lens_ids.shape == (6, *kept.ids.shape)
    assert main(["trace", "Il fait froid.", "--next-tokens"]) == 0
    assert f"next       “{visible(told[0]['text'])}” {told[0]['p']:.0%}, “" in capsys.readouterr().out
    assert main(["trace", "Il fait froid.", "--next-tokens", "-o", str(tmp_path / "trace.json")]) != 0
    assert "Only a .npz file holds next tokens" in capsys.readouterr().err
    assert main(["trace", "Il fait froid.", "--outputs", "-o", str(path)]) == 0
    outputs = read_trace(path).outputs
    assert outputs.norm.shape == (6, *kept.ids.shape[:1], 2) and (outputs.norm > 0).all()
    assert main(["trace", "Il fait froid.", "--outputs", "-o", str(tmp_path / "trace.json")]) != 0
    assert "Only a .npz file holds experts' outputs" in capsys.readouterr().err
    assert not (tmp_path / "trace.json").exists()
