"""What a run on Ray says and does before there is any Ray: the rest is in tests/corpus/test_ray.py, which needs it."""

import json
from pathlib import Path

import pytest

from moeviz.cli.main import main
from moeviz.corpus import on_ray
from moeviz.corpus.on_ray import Cluster, Job, Tracer
from moeviz.corpus.run import Wanted, planned_run
from moeviz.corpus.texts import files_of
from moeviz.errors import MoevizError
from moeviz.formats.dataset.folder import writing
from moeviz.formats.dataset.opening import check_dataset, read_dataset

SMALL = Wanted(shard_bytes=60, threads=1)


@pytest.fixture
def texts(tmp_path) -> Path:
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": f"Text number {n}"}) for n in range(20)))
    return tmp_path / "texts.jsonl"


@pytest.fixture
def job(texts, tmp_path) -> Job:
    return Job("embedded", {}, files_of([str(texts)]), tmp_path / "out", SMALL, 1, 1.0, str(Path.cwd()))


def said_by(capsys, *words: str) -> str:
    assert main(["corpus", *words]) == 3
    return capsys.readouterr().err


def test_without_ray_one_sentence_says_how_to_install_it(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    said = said_by(capsys, str(texts), "-o", str(tmp_path / "out"), "--ray")
    assert said == 'moeviz: Running on Ray needs Ray, which is not installed here: `pip install "moeviz[ray]"`.\n'
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["texts.jsonl", "ray://head:10001", "head", "head:port", "a b:1", "head:6379/x"])
def test_what_is_not_the_address_of_a_cluster_is_refused(address, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: object())
    try:
        code = main(["corpus", str(texts), "-o", str(tmp_path / "out"), "--ray", address])
    except SystemExit as stopped:
        code = stopped.code
    assert code in (2, 3) and repr(address) in capsys.readouterr().err


def test_options_that_would_do_nothing_are_refused(texts, tmp_path, monkeypatch, capsys):
    out = ["-o", str(tmp_path / "out")]
    assert "this one is not on Ray. Add --ray." in said_by(capsys, str(texts), *out, "--actors", "2")
    assert "this one is not on Ray. Add --ray." in said_by(capsys, str(texts), *out, "--gpus", "0.5")
    assert "--ray is for a corpus that is written to a folder" in said_by(capsys, str(texts), "--ray")
    monkeypatch.setattr(on_ray, "find_spec", lambda name: object())
    assert "1.5 GPUs an actor are not possible" in said_by(capsys, str(texts), *out, "--ray", "--gpus", "1.5")


NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0, "GPU": 1.0}, {"CPU": 64.0}]


class FakeRay:
    """What a cluster says that it has."""

    @staticmethod
    def nodes():
        return [{"Alive": True, "Resources": has} for has in NODES] + [{"Alive": False, "Resources": {"CPU": 99.0}}]


@pytest.mark.parametrize(
    ("threads", "gpus", "room"), [(1, 0, 75), (2, 0, 37), (4, 0, 18), (1, 0.5, 6), (2, 0.5, 5), (1, 1, 3), (4, 2, 1)]
)
def test_the_room_on_a_cluster_is_counted_node_by_node(threads, gpus, room):
    assert on_ray._count_actors(FakeRay, Cluster("auto", None, gpus), threads) == room
    assert on_ray._count_actors(FakeRay, Cluster("auto", room, gpus), threads) == room
    with pytest.raises(MoevizError, match=f"{room} .*{threads} CPU"):
        on_ray._count_actors(FakeRay, Cluster("auto", room + 1, gpus), threads)


def test_missing_resources_are_reported_since_ray_would_wait_for_ever():
    with pytest.raises(MoevizError, match=r"3 machines.*0 actors.*1 CPU.*4 GPU"):
        on_ray._count_actors(FakeRay, Cluster("auto", None, 4), 1)


def test_an_actor_writes_the_shards_that_it_is_given_and_no_shard_twice(job):
    actor = Tracer(job)
    first, said = actor.look()
    assert not said
    with writing(job.folder, planned_run(first, job.files, SMALL, None)) as folder:
        for shard in (*folder.pending(), 0):
            assert actor.write(shard, folder.digest) == (shard, "")
        folder.finish()
    assert read_dataset(job.folder).texts == 20 and not check_dataset(read_dataset(job.folder))


def test_what_an_actor_cannot_do_is_a_sentence_with_its_machine(job, tmp_path, texts):
    actor = Tracer(job)
    first, _ = actor.look()
    plan = planned_run(first, job.files, SMALL, None)
    shard, said = actor.write(0, "0")
    assert shard == 0 and said.startswith("on ") and "is another folder there. Every machine needs the same" in said
    with writing(job.folder, plan) as folder:
        assert "is another folder there" in actor.write(0, "0")[1]
        texts.write_text(texts.read_text().replace("number 1", "number 9"))
        assert "The texts changed after the run was planned" in actor.write(0, folder.digest)[1]
    other = {"weights_identity": "of another machine"}
    with writing(tmp_path / "other", plan | other) as folder:
        strange = Tracer(Job("embedded", {}, job.files, tmp_path / "other", SMALL, 1, 1.0, str(Path.cwd())))
        assert "are not those that the run was planned with" in strange.write(0, folder.digest)[1]
    nowhere = Tracer(Job("./nowhere", {}, job.files, job.folder, SMALL, 1, 1.0, str(Path.cwd())))
    assert nowhere.look()[0] is None and nowhere.look()[1].startswith("on ")
