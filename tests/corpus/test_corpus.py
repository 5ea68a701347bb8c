"""Texts to a dataset: every text once, whatever stops the run, and the same bytes as a run that nothing stopped."""

import errno
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_up_engine import MadeUpEngine
from opened_instead import open_instead
from processes import python
from pyarrow import parquet

from moeviz import whole_files
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import load_model
from moeviz.cli.corpus import texts_at
from moeviz.cli.main import main
from moeviz.corpus import run
from moeviz.corpus.analyses import DatasetStatistics
from moeviz.corpus.run import Wanted, batches, first_look, planned_run, write_corpus, write_shard
from moeviz.corpus.texts import files_of, planned, texts_from, texts_of_shard
from moeviz.errors import InvalidPrompt, MoevizError
from moeviz.formats.dataset import storage
from moeviz.formats.dataset.convert import trace_of
from moeviz.formats.dataset.folder import writing
from moeviz.formats.dataset.opening import check_dataset, read_dataset
from moeviz.formats.dataset.shard import ShardWriter
from moeviz.metrics.expert_table import expert_table

TEXTS = [(f"label {n % 3}", f"Text number {n}: " + "il fait froid. " * (n % 7)) for n in range(40)]
SMALL = Wanted(weights="exact", shard_bytes=600)


@pytest.fixture
def texts(tmp_path) -> Path:
    rows = (json.dumps({"label": label, "text": text}) for label, text in TEXTS)
    (tmp_path / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "texts.jsonl"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_corpus_is_the_trace_of_its_texts(texts, tmp_path):
    dataset = write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "out", SMALL)
    assert len(dataset.shards) == 4 and not check_dataset(dataset)
    whole = trace_corpus(MadeUpEngine(), TEXTS)
    back = trace_of(dataset)
    assert back.tokens.equals(whole.tokens), "texts of more than 64 characters are in stretches"
    assert (back.experts == whole.experts).all() and (back.weights == whole.weights).all()
    assert back.model == whole.model


def test_short_texts_run_together_and_are_routed_as_alone(texts, tmp_path, monkeypatch):
    """In batches of like lengths, or each by itself, as it may be asked."""
    model, runs, traced = load_model(), [], run.trace
    whole = trace_corpus(model, TEXTS)
    monkeypatch.setattr(run, "trace", lambda *args, **how: runs.append(args[1]) or traced(*args, **how))
    for batch_tokens in (0, 300):
        runs.clear()
        wanted = Wanted(weights="exact", shard_bytes=600, batch_tokens=batch_tokens)
        back = trace_of(write_corpus(model, [str(texts)], tmp_path / f"{batch_tokens}", wanted))
        assert back.model == whole.model and back.tokens.equals(whole.tokens) and (back.experts == whole.experts).all()
        np.testing.assert_allclose(back.weights, whole.weights, atol=1e-5 if batch_tokens else 0)
        together = len(runs) - 1  # one to look at the model
        assert together < len(TEXTS) / 2 if batch_tokens else together == len(TEXTS)


def test_batches_have_like_lengths_and_every_stretch_once():
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    found = list(batches(lengths, 100))
    assert sorted(at for batch in found for at in batch) == list(range(200)) and len(found) < 120
    assert all(max(lengths[batch]) * len(batch) <= 100 for batch in found)


WITH_SUPPORT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")])
}
KILLED = """
import os, signal, sys
from pathlib import Path
from made_up_engine import MadeUpEngine
from moeviz.corpus.run import Wanted, write_corpus
rename, when, left = Path.rename, sys.argv[3], [2]
def killing(self, target):
    if self.name.startswith(".shard-"):
        left[0] -= 1
        if when == "before" and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    moved = rename(self, target)
    if when == "after" and not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return moved
Path.rename = killing
write_corpus(MadeUpEngine(), [sys.argv[1]], sys.argv[2], Wanted(shard_bytes=600), resume=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9.")
def test_a_run_that_is_killed_before_and_after_a_shard_takes_its_name_ends_as_if_it_had_not_been(texts, tmp_path):
    folder = tmp_path / "killed"
    write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "whole", Wanted(shard_bytes=600))
    for when, there in (("before", 1), ("after", 3)):
        died = python("-c", KILLED, str(texts), str(folder), when, env=WITH_SUPPORT)
        assert died.returncode == -signal.SIGKILL
        assert len(list(folder.glob("shard-*"))) == there, "what was done is there, and nothing else"
        assert len(list(folder.glob(".shard-*"))) == (when == "before") and not (folder / "manifest.json").exists()
    write_corpus(MadeUpEngine(), [str(texts)], folder, resume=True)  # sizes are those of the run that was begun
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_full_disk_is_a_sentence_and_the_run_goes_on_from_there(texts, tmp_path, monkeypatch):
    whole = write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "whole", SMALL)
    folder, left, sync = tmp_path / "full", [30], whole_files.sync

    def full(path):
        left[0] -= 1
        if not left[0]:
            raise OSError(28, os.strerror(28), str(path))
        sync(path)

    for place in (storage, whole_files):
        monkeypatch.setattr(place, "sync", full)
    with pytest.raises(OSError, match=f"No space left on device.*'{folder}.*--resume") as said:
        write_corpus(MadeUpEngine(), [str(texts)], folder, SMALL)
    assert said.value.errno == errno.ENOSPC
    assert not list(folder.glob(".shard-*")) and len(list(folder.glob("shard-*"))) == 2
    engine = MadeUpEngine()
    write_corpus(engine, [str(texts)], folder, SMALL, resume=True)
    assert contents(folder) == contents(whole.path)
    assert len(engine.read) < sum(len(text) // 64 + 1 for _, text in TEXTS), "what was done is not run again"


def test_what_cannot_be_written_is_reported_without_a_file_s_name_too(texts, tmp_path, monkeypatch, capsys, engine):
    """As pyarrow says it, whose errors name no file."""

    def full(*_asked):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    monkeypatch.setattr(ShardWriter, "_flush", full)
    assert main(["corpus", str(texts), "-o", str(tmp_path / "out")]) == 3
    says = f"moeviz: Error writing bytes to file: '{tmp_path / 'out'}'. Make room there, and go on with --resume"
    assert says in capsys.readouterr().err


def test_resuming_a_whole_dataset_does_nothing(texts, tmp_path):
    dataset = write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "out", SMALL)
    before, engine = contents(dataset.path), MadeUpEngine()
    write_corpus(engine, [str(texts)], tmp_path / "out", SMALL, resume=True)
    assert contents(dataset.path) == before and engine.read == ["a"]  # which says what the model is


def test_texts_that_changed_meanwhile_are_refused(texts, tmp_path):
    write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "out", SMALL)
    (tmp_path / "out" / "manifest.json").unlink()
    texts.write_text(texts.read_text().replace("number 39", "number 93"))
    with pytest.raises(MoevizError, match="shards"):
        write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "out", SMALL, resume=True)


@pytest.mark.parametrize("part", ["gate", "experts"])
def test_a_model_that_was_changed_in_memory_is_not_gone_on_with(part, texts, tmp_path):
    model, out, wanted = load_model(), tmp_path / "out", Wanted(shard_bytes=600)
    write_corpus(model, [str(texts)], out, wanted)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "shard-000001")
    name, weight = next((name, weight) for name, weight in model.model.named_parameters() if f"mlp.{part}" in name)
    with torch.no_grad():
        weight[0] += 1  # a row of a router, or an expert
    with pytest.raises(MoevizError, match="weights_in_memory"):
        write_corpus(model, [str(texts)], out, wanted, resume=True)
    assert len(write_corpus(load_model(), [str(texts)], out, wanted, resume=True).shards) == 4, name


def test_a_run_of_before_weights_in_memory_counted_is_gone_on_with(texts, tmp_path):
    model, out, wanted = load_model(), tmp_path / "out", Wanted(shard_bytes=600)
    files = files_of([str(texts)])
    plan = planned_run(first_look(model, wanted), files, wanted, None)
    del plan["weights_in_memory"]
    with writing(out, plan) as folder:
        write_shard(model, files, folder, 0, lambda texts: None)
    assert write_corpus(model, [str(texts)], out, wanted, resume=True).texts == len(TEXTS)


def test_texts_that_change_while_they_are_traced_are_refused(texts):
    files = files_of([str(texts)])
    plan = planned(files, 600)
    texts.write_text(texts.read_text().replace("number 3", "number 4"))
    with pytest.raises(InvalidPrompt, match="texts"):
        list(texts_of_shard(files, plan[0]))


@pytest.fixture
def mixed(tmp_path, texts) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\ufeff" + texts.read_text() + "\n\n", encoding="utf-8")
    (folder / "b.txt").write_text("one text\nof two lines\n")
    rows = {"text": [f"row {n}" for n in range(700)], "label": ["rows"] * 700, "other": [0] * 700}
    parquet.write_table(pa.table(rows), folder / "c.parquet", row_group_size=300)
    (folder / "d.jsonl").write_text('{"text": "no label"}\r\n')
    (folder / "ignored.bin").write_bytes(b"\x00")
    return folder


@pytest.mark.parametrize("shard_bytes", [1, 100, 10**9])
def test_shards_have_all_texts_of_all_kinds_of_files_in_order(shard_bytes, mixed):
    files = files_of([str(mixed)])
    whole = [(text.label, text.text) for text in texts_from(files)]
    assert whole[:40] == TEXTS and whole[40] == ("b", "one text\nof two lines\n")
    assert whole[41:741] == [("rows", f"row {n}") for n in range(700)] and whole[741:] == [("d", "no label")]
    plan = planned(files, shard_bytes)
    again = [(text.label, text.text) for shard in plan for text in texts_of_shard(files, shard)]
    assert again == whole and plan[0]["first_text"] == 0
    assert len(plan) == {1: 742, 10**9: 1}.get(shard_bytes, len(plan))


def test_each_line_of_a_text_file_is_a_text_where_that_is_asked_for(tmp_path):
    (tmp_path / "notes.txt").write_bytes("one\r\n\ntwo \u2028 lines\n".encode())
    found = [(text.label, text.text) for text in texts_from([tmp_path / "notes.txt"], lines=True)]
    assert found == [("notes", "one"), ("notes", "two \u2028 lines")]


BAD = {
    "not json": ("a.jsonl", b"{", "the line at byte 0 is not JSON"),
    "no text": ("a.jsonl", b'{"text": "a"}\n{"label": "x"}', "the line at byte 14 has no 'text'"),
    "not utf-8": ("a.jsonl", b"\xff\xfe", "not text in UTF-8"),
    "empty": ("a.jsonl", b"\n\n", "There are no texts to trace"),
    "not parquet": ("a.parquet", b"PAR1", "is not a Parquet file, or it is damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_files_that_hold_no_texts_get_one_sentence(kind, tmp_path):
    name, data, sentence = BAD[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidPrompt, match=sentence):
        planned(files_of([str(tmp_path / name)]), 600)


def test_a_folder_without_texts_and_a_table_without_them_say_so(tmp_path):
    with pytest.raises(InvalidPrompt, match="text"):
        files_of([str(tmp_path)])
    parquet.write_table(pa.table({"content": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidPrompt, match="“text”"):
        planned(files_of([str(tmp_path)]), 600)


def test_progress_counts_texts_and_knows_the_time_left(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROWS", 200)
    told = []
    write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "out", SMALL, progress=lambda *now: told.append(now))
    assert told[-1] == (40, 40, 0) and len(told) > 5
    assert [done for done, *_ in told] == sorted(done for done, *_ in told) and told[0][2] > 0


PEAKS = """
import json, sys, tracemalloc
from pathlib import Path
from made_up_engine import MadeUpEngine
from moeviz.corpus import run
from moeviz.corpus.run import Wanted, write_corpus
from moeviz.formats.dataset.shard import ShardWriter

class Forgetful(MadeUpEngine):
    def run(self, asked):
        yield from super().run(asked)
        self.read.clear()

run.ROWS = 200
ShardWriter.__init__.__defaults__ = (run.ROWS,)

def peak_of(texts, folder):
    rows = (json.dumps({"label": "a", "text": f"text {n:06} il fait froid, et la mer"}) for n in range(texts))
    folder.mkdir()
    (folder / "texts.jsonl").write_text(chr(10).join(rows), encoding="utf-8")
    tracemalloc.start()
    dataset = write_corpus(Forgetful(), [str(folder / "texts.jsonl")], folder / "out", Wanted(shard_bytes=6_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert dataset.texts == texts
    return peak

peak_of(50, Path(sys.argv[1], "first"))  # what is imported and kept is there now
print(*(peak_of(texts, Path(sys.argv[1], str(texts))) for texts in (50, 300)))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """In a process of its own: what is counted there is of no other thread, and of no garbage of other tests."""
    said = python("-c", PEAKS, str(tmp_path), env=WITH_SUPPORT, check=True)
    small, large = map(int, said.stdout.split())
    assert large < 2 * small, said.stdout


# On the command line


@pytest.fixture
def engine(monkeypatch) -> MadeUpEngine:
    made = MadeUpEngine()
    open_instead(monkeypatch, lambda *asked, **how: made)
    return made


def test_the_command_writes_a_folder_and_says_what_is_in_it(engine, texts, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["corpus", str(texts), "-o", out, "--no-text", "--weights", "none", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["texts"] == 40 and facts["labels"] == ["label 0", "label 1", "label 2"]
    dataset = read_dataset(out)
    assert not dataset.kept.text and dataset.kept.weights == "none" and facts["tokens"] == dataset.tokens
    assert main(["corpus", str(texts), "-o", out]) == 3
    assert "holds a whole dataset. Go on with it by --resume" in capsys.readouterr().err
    assert main(["corpus", str(texts), "-o", out, "--resume"]) == 3
    assert "its plan differs in kept" in capsys.readouterr().err
    assert main(["corpus", str(texts), "-o", str(tmp_path / "more"), "--lines"]) == 0
    assert "40 texts, 3 MoE layers, 3 labels, in 1 shard\n" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--resume"], ["--no-text"], ["--weights", "none"], ["--lines"]])
def test_an_option_of_datasets_does_nothing_for_a_trace_and_is_refused(option, texts, tmp_path, capsys):
    assert main(["corpus", str(texts), "-o", str(tmp_path / "mine.npz"), *option]) == 3
    assert f"{option[0]} is for a corpus that is written to a folder" in capsys.readouterr().err
    assert main(["corpus", "--embedded", "-o", str(tmp_path / "mine")]) == 3
    assert "--embedded gives one trace" in capsys.readouterr().err


def test_a_dataset_keeps_the_sums_of_experts_outputs_and_versions_before_read_the_rest(texts, tmp_path):
    """Of several shards; its other tables and its rows are what they are without."""
    model = load_model()
    texts.write_text("\n".join(texts.read_text().splitlines()[:16]))
    plain = write_corpus(model, [str(texts)], tmp_path / "plain", SMALL)
    found = write_corpus(model, [str(texts)], tmp_path / "found", replace(SMALL, outputs=True))
    assert len(found.shards) > 1 and not plain.output_means()
    for one, other in zip(plain.shards, found.shards, strict=True):
        same = {name for name in one.files if one.files[name] == other.files[name]}
        assert set(one.files) - same == {"load.parquet"}
    again = trace_corpus(model, TEXTS[:16], outputs=True)
    expected, got = expert_table(again), expert_table(DatasetStatistics(found))
    for name in ("norm", "added", "greatest", "cosine", "residual"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
    with pytest.raises(MoevizError):
        write_corpus(model, [str(texts)], tmp_path / "found", SMALL, resume=True)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(pipe := tmp_path / "texts.txt")
    for read in (files_of, texts_at):
        with pytest.raises(InvalidPrompt, match=r"texts\.txt"):
            read([str(pipe)])
