"""A corpus on a Ray cluster of two nodes has the bytes of the plain loop, whatever is lost: `make test-ray`."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from ray_cluster import actors, driver, two_nodes, wait_for

from moeviz.capture.models.load import load_model
from moeviz.corpus.run import Wanted, write_corpus
from moeviz.errors import MoevizError
from moeviz.formats.dataset.opening import check_dataset, read_dataset

pytestmark = pytest.mark.ray
TEXTS, SHARDS = 60, 10
WORDS = "il fait froid à Paris, et la mer est calme. " * 20
SMALL = ["--shard-bytes", "5000", "--threads", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def cluster(home):
    with two_nodes(home) as address:
        yield address


@pytest.fixture(scope="module")
def texts(home) -> Path:
    rows = (json.dumps({"label": f"label {n % 3}", "text": f"Text {n}: {WORDS}"}) for n in range(TEXTS))
    (home / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return home / "texts.jsonl"


@pytest.fixture(scope="module")
def plain(home, texts) -> dict[str, bytes]:
    """What the plain loop writes."""
    torch.set_num_threads(1)
    dataset = write_corpus(load_model(), [str(texts)], home / "plain", Wanted(shard_bytes=5000))
    assert len(dataset.shards) == SHARDS and dataset.texts == TEXTS
    return contents(home / "plain")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def shards(folder: Path) -> int:
    return len(list(folder.glob("shard-*")))


def ended(process) -> tuple[int, str]:
    said = process.communicate(timeout=400)
    return process.returncode, "".join(said)


def test_two_actors_on_two_nodes_write_the_bytes_of_the_plain_loop(home, cluster, texts, plain):
    """Each node has one CPU, so there is room for two actors on two nodes, and for no third."""
    code, said = ended(driver(home, str(texts), "-o", "two", *SMALL, "--ray", cluster, "--actors", "2"))
    assert code == 0, said
    assert contents(home / "two") == plain and not check_dataset(read_dataset(home / "two"))
    code, said = ended(driver(home, str(texts), "-o", "more", *SMALL, "--ray", cluster, "--actors", "3"))
    assert code == 3 and "The cluster of 2 machines has room for 2 actors of 1 CPU each, and 3 were asked for" in said


def test_an_actor_that_is_killed_is_started_again_and_no_text_comes_twice(home, cluster, texts, plain):
    run = driver(home, str(texts), "-o", "lost", *SMALL, "--ray", cluster, "--actors", "2")
    wait_for(lambda: shards(home / "lost") >= 2, run)
    killed = actors(home)[0]
    os.kill(killed, signal.SIGKILL)
    assert shards(home / "lost") < SHARDS, "it was killed on the way"
    code, said = ended(run)
    assert code == 0, said
    assert contents(home / "lost") == plain


def test_a_driver_that_is_killed_is_gone_on_with_without_ray_and_two_at_once_are_refused(home, cluster, texts, plain):
    folder = home / "driver"
    run = driver(home, str(texts), "-o", str(folder), *SMALL, "--ray", cluster, "--actors", "2")
    wait_for(lambda: shards(folder) >= 2, run)
    with pytest.raises(MoevizError, match="run"):
        write_corpus(load_model(), [str(texts)], folder, Wanted(shard_bytes=5000), resume=True)
    run.kill()
    assert ended(run)[0] == -signal.SIGKILL
    there = shards(folder)
    assert there < SHARDS and not (folder / "manifest.json").exists()
    write_corpus(load_model(), [str(texts)], folder, Wanted(shard_bytes=5000), resume=True)
    assert contents(folder) == plain


def test_a_run_of_the_plain_loop_is_gone_on_with_on_ray(home, cluster, texts, plain):
    folder = home / "begun"
    shutil.copytree(home / "plain", folder)
    (folder / "manifest.json").unlink()
    for number in (3, 7):
        shutil.rmtree(folder / f"shard-{number:06}")
    code, said = ended(driver(home, str(texts), "-o", str(folder), *SMALL[:2], "--resume", "--ray", cluster))
    assert code == 0, said
    assert contents(folder) == plain


def test_ctrl_c_leaves_whole_shards_and_no_actor(home, cluster, texts, plain):
    folder = home / "stopped"
    run = driver(home, str(texts), "-o", str(folder), *SMALL, "--ray", cluster, "--actors", "2")
    wait_for(lambda: shards(folder) >= 1, run)
    run.send_signal(signal.SIGINT)
    code, said = ended(run)
    assert code == 130 and "moeviz: stopped" in said and "Traceback" not in said, said
    wait_for(lambda: not actors(home))
    assert 1 <= shards(folder) < SHARDS and not (folder / "manifest.json").exists()
    for shard in folder.glob("shard-*"):
        assert all((plain[str(path.relative_to(folder))] == path.read_bytes()) for path in shard.iterdir())


def test_an_actor_that_is_lost_again_and_again_stops_the_run_with_a_sentence(home, cluster, texts):
    folder = home / "again"
    run = driver(home, str(texts), "-o", str(folder), *SMALL, "--ray", cluster, "--actors", "1")
    wait_for(lambda: shards(folder) >= 1, run)

    def over() -> bool:
        for pid in actors(home):
            os.kill(pid, signal.SIGKILL)
        return run.poll() is not None

    wait_for(over)
    code, said = ended(run)
    assert code == 3 and "moeviz: An actor was lost 6 times, so the run was stopped; what is done is kept" in said, said
    assert "Traceback" not in said and shards(folder) < SHARDS


def test_what_fails_in_an_actor_is_one_sentence_with_its_machine(home, cluster, texts):
    code, said = ended(driver(home, str(texts), "-o", "none", "--model", "./nowhere", "--ray", cluster))
    assert code == 3 and "The model could not be opened on " in said and "Traceback" not in said, said
    code, said = ended(driver(home, str(texts), "-o", "none", "--ray", "127.0.0.1:1"))
    assert code == 3 and "No Ray cluster answers at '127.0.0.1:1'" in said and "Traceback" not in said, said


def test_without_a_cluster_ray_is_started_on_this_machine_and_gone_afterwards(home, texts, plain):
    code, said = ended(driver(home, str(texts), "-o", "local", *SMALL, "--ray", "--actors", "2"))
    assert code == 0, said
    assert contents(home / "local") == plain
    wait_for(lambda: not actors(home))
