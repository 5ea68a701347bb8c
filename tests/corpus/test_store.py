"""Datasets in an object store, where nothing can be renamed: there as a whole or not at all. `make test-store`."""

import json
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from made_up_engine import MadeUpEngine
from opened_instead import open_instead
from processes import python
from store_server import BUCKET, store_server

from moeviz.capture.models.load import load_model
from moeviz.cli.main import main
from moeviz.corpus.run import Wanted, write_corpus
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.formats.dataset.convert import trace_of
from moeviz.formats.dataset.folder import plan_in, writing
from moeviz.formats.dataset.opening import check_dataset, read_dataset
from moeviz.formats.dataset.s3 import S3Path, place_of

TEXTS = [(f"label {n % 3}", f"Text number {n}: " + "il fait froid. " * (n % 7)) for n in range(40)]
SMALL = Wanted(weights="exact", shard_bytes=600)
needs_a_store = pytest.mark.skipif(
    find_spec("moto") is None or find_spec("flask") is None, reason="needs a store: make test-store installs one"
)


@pytest.fixture
def texts(tmp_path) -> Path:
    rows = (json.dumps({"label": label, "text": text}) for label, text in TEXTS)
    (tmp_path / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "texts.jsonl"


@pytest.fixture(scope="module")
def server():
    with store_server() as environment:
        yield environment


@pytest.fixture
def store(server, monkeypatch, request) -> S3Path:
    """A place for this test alone."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return place_of(f"s3://{BUCKET}/{request.node.name}/my corpus")


def contents(place: S3Path | Path) -> dict[str, bytes]:
    if isinstance(place, S3Path):
        return {name: (place / name).read_bytes() for name in sorted(place.files())}
    files = (path for path in sorted(place.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@needs_a_store
def test_a_dataset_in_a_store_has_the_bytes_of_one_in_a_folder_and_the_same_answers(texts, store, tmp_path, capsys):
    folder = write_corpus(MadeUpEngine(), [str(texts)], tmp_path / "out", SMALL)
    dataset = write_corpus(MadeUpEngine(), [str(texts)], str(store), SMALL)
    assert contents(store) == contents(tmp_path / "out") and len(dataset.shards) == 4
    assert dataset.counts().equals(folder.counts()) and trace_of(dataset).equals(trace_of(folder))
    assert not check_dataset(read_dataset(str(store)))
    said = []
    for place in (tmp_path / "out", store):
        assert main(["metrics", str(place), "--topic", "load", "--json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and len(said[0]) > 1000


@needs_a_store
def test_the_command_writes_to_a_store_and_reads_it(texts, store, tmp_path, monkeypatch, capsys):
    open_instead(monkeypatch, lambda *asked, **how: MadeUpEngine())
    assert main(["corpus", str(texts), "-o", str(store)]) == 0
    assert f"moeviz metrics '{store}' --topic load" in capsys.readouterr().out
    assert main(["corpus", str(texts), "-o", f"{store}/"]) == 3
    assert "holds a whole dataset. Go on with it by --resume" in capsys.readouterr().err
    assert main(["corpus", str(texts), "-o", f"s3://{BUCKET}/{store.key.split('/')[1]}"]) == 3
    assert "holds other files, and no dataset" in capsys.readouterr().err
    assert main(["check", str(store)]) == 0
    assert main(["convert", str(store), str(tmp_path / "back.npz")]) == 0
    assert main(["convert", str(tmp_path / "back.npz"), f"{store}-again"]) == 0
    assert trace_of(read_dataset(f"{store}-again")).experts.shape == trace_of(read_dataset(store)).experts.shape
    assert not [path.name for path in Path.cwd().iterdir() if path.name.startswith("s3")], "no folder is called so"


KILLED = """
import os, signal, sys, torch
from moeviz.capture.models.load import load_model
from moeviz.corpus.run import Wanted, write_corpus
from moeviz.formats.dataset.s3 import S3Path
upload, when = S3Path.upload, sys.argv[3]
def killing(self, source):
    last = self.key.endswith("shard-000001/shard.json")
    if last and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    upload(self, source)
    if (last and when == "after") or (self.key.endswith("shard-000002/load.parquet") and when == "half"):
        os.kill(os.getpid(), signal.SIGKILL)
S3Path.upload = killing
torch.set_num_threads(1)
write_corpus(load_model(), [sys.argv[1]], sys.argv[2], Wanted(shard_bytes=600), resume=True)
"""


@needs_a_store
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9.")
def test_a_run_that_is_killed_around_the_last_object_of_a_shard_ends_as_if_it_had_not_been(texts, store, tmp_path):
    torch.set_num_threads(1)
    model, small = load_model(), Wanted(shard_bytes=600)
    write_corpus(model, [str(texts)], tmp_path / "whole", small)
    for when, there in (("before", 1), ("after", 2), ("half", 2)):
        died = python("-c", KILLED, str(texts), str(store), when)
        assert died.returncode == -signal.SIGKILL
        found = read_dataset(store, partial=True)
        assert len(found.shards) == there and not check_dataset(found), "what was half sent is not there"
        assert (store / "shard-000001" / "tokens.parquet").exists() and not (store / "manifest.json").exists()
    write_corpus(model, [str(texts)], store, small, resume=True)
    assert contents(store) == contents(tmp_path / "whole")


@needs_a_store
def test_a_shard_that_is_written_twice_is_there_once(texts, store):
    write_corpus(MadeUpEngine(), [str(texts)], store, SMALL)
    before = contents(store)
    with writing(store, plan_in(store), resume=True) as again:
        assert again.pending() == []
        with again.writer(0) as twin:
            assert twin.commit(again.digest) is False
        assert not twin.part.exists()
    assert contents(store) == before


@needs_a_store
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [("cut", "shard-000002 is damaged: load.parquet has 5 bytes"), ("doubled", "shard-000009 is not in the manifest")],
)
def test_what_is_not_as_it_was_written_is_named(damage, sentence, texts, store):
    write_corpus(MadeUpEngine(), [str(texts)], store, SMALL)
    shard = store / "shard-000002"
    if damage == "cut":
        (shard / "load.parquet").write_bytes(b"short")
    for file in shard.files() if damage == "doubled" else ():
        (store / "shard-000009" / file).write_bytes((shard / file).read_bytes())
    with pytest.raises(InvalidTrace, match=sentence):
        read_dataset(store)
    assert len(read_dataset(store, partial=True).shards) == (4 if damage == "doubled" else 3)


@needs_a_store
def test_a_bucket_that_is_not_there_and_a_store_that_does_not_answer_are_a_sentence(texts, store, monkeypatch):
    with pytest.raises(MoevizError, match="NO_SUCH_BUCKET"):
        write_corpus(MadeUpEngine(), [str(texts)], "s3://no-such-bucket/out", SMALL)
    with pytest.raises(InvalidTrace, match=r"manifest\.json"):
        read_dataset(f"s3://{BUCKET}/nothing")
    dataset = write_corpus(MadeUpEngine(), [str(texts)], store, SMALL)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for asked in (lambda: read_dataset(store), lambda: dataset.counts(), lambda: trace_of(dataset)):
        with pytest.raises(MoevizError, match="NETWORK_CONNECTION") as said:
            asked()
        assert "damaged" not in str(said.value)


@needs_a_store
def test_a_store_that_falls_silent_while_rows_are_read_has_damaged_nothing(texts, monkeypatch):
    with store_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        dataset = write_corpus(MadeUpEngine(), [str(texts)], f"s3://{BUCKET}/out", SMALL)
        rows = dataset.file(dataset.shards[0])
    with pytest.raises(MoevizError, match=r"shard-000000'.*NETWORK_CONNECTION"):
        dataset.group(dataset.shards[0], rows, 0, ["text"])


@pytest.mark.parametrize(
    "address",
    [
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3://key:secret@bucket/out",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "s3://bucket/a?endpoint_override=x",
        "S3://bucket/out",
        "gs://bucket/out",
        "s3://bucket/a\nb",
    ],
)
def test_a_wrong_address_is_refused_and_makes_no_folder(address, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["corpus", str(texts), "-o", address]) == 3
    assert "s3://BUCKET/PREFIX" in capsys.readouterr().err
    assert main(["metrics", address]) == 3
    assert "s3://BUCKET/PREFIX" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_a_wrong_endpoint_is_refused(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(MoevizError, match=r"AWS_ENDPOINT_URL.*'localhost:9000'.*http://"):
        read_dataset("s3://bucket/out")
    assert os.environ["AWS_ENDPOINT_URL"] == "localhost:9000"
