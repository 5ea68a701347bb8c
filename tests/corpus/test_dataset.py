"""A dataset on disk: what goes in comes out, and what is damaged, doubled, missing or foreign is named."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_corpus import texts_of

from moeviz.errors import InvalidTrace, MissingField, MoevizError
from moeviz.formats.dataset.convert import trace_of, write_dataset
from moeviz.formats.dataset.folder import check_begun, plan_in, writing
from moeviz.formats.dataset.opening import check_dataset, is_dataset, read_dataset
from moeviz.formats.dataset.reader import Dataset
from moeviz.formats.dataset.shard import rows_of


@pytest.fixture
def folder(tmp_path) -> Path:
    write_dataset(texts_of(), tmp_path / "corpus", shard_tokens=120)
    return tmp_path / "corpus"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_folder_whose_name_is_not_utf_8_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(MoevizError, match="UTF-8") as refused:
        write_dataset(texts_of(), tmp_path / os.fsdecode(b"corp\xffus"))
    assert str(refused.value).encode() and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (8, 1), (254, 4), (255, 4), (300, 3)])
def test_a_trace_comes_back_to_the_last_bit(experts, top_k, tmp_path):
    trace = texts_of(experts, top_k)
    write_dataset(trace, tmp_path / "corpus", shard_tokens=120)
    dataset = read_dataset(tmp_path / "corpus")
    assert len(dataset.shards) == 4 and trace_of(dataset).equals(trace)


def test_a_trace_without_labels_weights_or_order_comes_back_too(tmp_path):
    trace = texts_of()
    bare = replace(trace, tokens=trace.tokens.drop(columns="label"), weights=None)
    bare = replace(bare, model=replace(bare.model, slot_order="unknown"))
    write_dataset(bare, tmp_path / "corpus")
    dataset = read_dataset(tmp_path / "corpus")
    assert trace_of(dataset).equals(bare)
    with pytest.raises(MissingField, match="choice"):
        dataset.need_order("Flow")


def test_float16_weights_are_close_and_in_order(tmp_path):
    trace = texts_of()
    write_dataset(trace, tmp_path / "corpus", weights="float16")
    back = trace_of(read_dataset(tmp_path / "corpus"))
    assert (back.experts == trace.experts).all() and not (back.weights == trace.weights).all()
    np.testing.assert_allclose(back.weights, trace.weights, rtol=5e-4, atol=3e-8)


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path):
    trace = texts_of()
    with pytest.raises(InvalidTrace, match="--weights exact"):
        write_dataset(replace(trace, weights=trace.weights * np.float32(1e6)), tmp_path / "corpus", weights="float16")


def test_without_text_no_file_holds_a_word_or_an_id(tmp_path):
    write_dataset(texts_of(), tmp_path / "corpus", text=False)
    dataset = read_dataset(tmp_path / "corpus")
    assert not dataset.kept.text
    back = trace_of(dataset)
    assert set(back.tokens["text"]) == {""} and set(back.tokens["token_id"]) == {-1}
    assert (back.experts == texts_of().experts).all()
    everything = b"".join(path.read_bytes() for path in (tmp_path / "corpus").rglob("*") if path.is_file())
    assert b"router" not in everything and b"prose" in everything  # the control: labels are kept


def test_counts_are_the_sums_of_the_load_tables(folder):
    trace, dataset = texts_of(), read_dataset(folder)
    assert dataset.counts().equals(trace.counts())
    assert dataset.counts_by_label().equals(trace.counts_by_label())
    assert dataset.tokens == 400 and dataset.texts == 10


def test_a_dataset_that_would_not_fit_into_memory_is_not_read_as_a_trace(folder):
    with pytest.raises(InvalidTrace, match="400"):
        trace_of(read_dataset(folder), max_bytes=1000)


def flipped(path: Path, at: int = -200) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def doubled(folder: Path) -> None:
    shutil.copytree(folder / "shard-000001", folder / "shard-000009")


def in_place_of_another(folder: Path) -> None:
    shutil.rmtree(folder / "shard-000001")
    shutil.copytree(folder / "shard-000000", folder / "shard-000001")


DAMAGE = {
    "doubled": (doubled, "shard-000009 is not in the manifest"),
    "in place of another": (in_place_of_another, "shard-000001 is damaged"),
    "missing": (lambda folder: shutil.rmtree(folder / "shard-000001"), "shard-000001 is missing"),
    "cut": (
        lambda folder: (folder / "shard-000001/load.parquet").write_bytes(b"PAR1"),
        "shard-000001 is damaged: load",
    ),
    "a file gone": (lambda folder: (folder / "shard-000001/flow.parquet").unlink(), "flow.parquet is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_in_a_sentence_and_the_rest_is_read_if_asked_for(damage, folder):
    spoil, sentence = DAMAGE[damage]
    spoil(folder)
    with pytest.raises(InvalidTrace, match=sentence) as told:
        read_dataset(folder)
    assert "partial" in str(told.value) and "\n" not in str(told.value)
    rest = read_dataset(folder, partial=True)
    assert len(rest.left_out) == 1 and sentence in rest.left_out[0]
    assert rest.tokens == trace_of(rest).experts.shape[1] == rest.counts().tokens[0, 0]


@pytest.mark.parametrize("file", ["load.parquet", "locality.parquet"])
def test_a_table_that_was_changed_is_caught_when_it_is_read(file, folder):
    flipped(folder / "shard-000002" / file)
    dataset = read_dataset(folder)  # the sizes are right
    with pytest.raises(InvalidTrace, match=f"shard-000002.* {file}"):
        dataset.counts_by_label()
    assert check_dataset(dataset) == [f"shard-000002 is damaged: {file} is not what was written."]


def test_rows_that_were_changed_are_caught_by_their_pages_and_by_the_check(folder):
    rows = folder / "shard-000002" / "tokens.parquet"
    caught, size = 0, rows.stat().st_size
    whole = rows.read_bytes()
    for at in range(100, size - 8, 331):
        flipped(rows, at)
        assert check_dataset(read_dataset(folder))
        try:
            assert trace_of(read_dataset(folder)).equals(texts_of()), f"byte {at} was changed, and nobody said so"
        except InvalidTrace as error:
            caught += "shard-000002" in str(error)
        rows.write_bytes(whole)
    assert caught > 20 and not check_dataset(read_dataset(folder))


def test_another_version_is_refused_with_its_name(folder):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"format": "moeviz dataset v7"}))
    with pytest.raises(InvalidTrace, match="'moeviz dataset v7'"):
        read_dataset(folder)


@pytest.mark.parametrize("key", ["format", "model", "kept", "shards"])
@pytest.mark.parametrize("value", [None, [], {}, "x", [None], [{"shard": "0"}]])
def test_a_manifest_from_anyone_is_read_or_refused_in_one_sentence(key, value, folder):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(InvalidTrace):
        read_dataset(folder).counts() if (key, value) != ("shards", []) else read_dataset(folder)


def begun(folder: Path, new: Path, shards: int) -> None:
    """As it is after so many shards."""
    with writing(new, plan_in(folder)) as unfinished:
        for shard in range(shards):
            shutil.copytree(folder / f"shard-{shard:06}", new / f"shard-{shard:06}")
        with pytest.raises(InvalidTrace, match="shards"):
            unfinished.finish()


def test_what_is_not_finished_says_so_and_is_read_if_asked_for(folder, tmp_path):
    begun(folder, tmp_path / "new", 2)
    assert is_dataset(tmp_path / "new")
    with pytest.raises(InvalidTrace, match="--resume"):
        read_dataset(tmp_path / "new")
    partial = read_dataset(tmp_path / "new", partial=True)
    assert len(partial.shards) == 2 and len(partial.left_out) == 2
    assert isinstance(partial, Dataset) and trace_of(partial).equals(texts_of().select(tokens=slice(0, partial.tokens)))


def test_a_second_driver_is_refused_while_the_first_lives(folder, tmp_path):
    plan = plan_in(folder)
    second = writing(tmp_path / "new", plan, resume=True)
    with writing(tmp_path / "new", plan), pytest.raises(MoevizError, match="run"), second:
        pass
    with writing(tmp_path / "new", plan, resume=True):  # the control: afterwards it may
        pass


def test_another_plan_and_another_run_s_shard_are_refused(folder, tmp_path):
    plan = plan_in(folder)
    begun(folder, tmp_path / "new", 1)
    other = writing(tmp_path / "new", plan | {"texts": 11}, resume=True)
    with pytest.raises(MoevizError, match="texts"), other:
        pass
    write_dataset(texts_of(), tmp_path / "other", shard_tokens=120, weights="none")
    with writing(tmp_path / "new", plan, resume=True) as unfinished:
        for shard in unfinished.pending():
            shutil.copytree(tmp_path / "other" / f"shard-{shard:06}", tmp_path / "new" / f"shard-{shard:06}")
        with pytest.raises(InvalidTrace, match="shard-000001"):
            unfinished.finish()


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path, folder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(MoevizError, match="files"):
        write_dataset(texts_of(), tmp_path / "mine")
    with pytest.raises(MoevizError, match="dataset"):
        write_dataset(texts_of(), folder)
    with pytest.raises(MoevizError, match="file"):
        check_begun(tmp_path / "mine" / "notes.txt", resume=False)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["notes.txt"]


def test_a_shard_that_is_written_twice_is_there_once(folder):
    with writing(folder, plan_in(folder), resume=True) as again:
        before = (folder / "shard-000000" / "tokens.parquet").read_bytes()
        trace = texts_of().select(tokens=slice(0, 40))
        with again.writer(0) as twin:
            twin.add(0, "prose", [rows_of(trace, again.kept)])
            assert twin.commit(again.digest) is False
    assert (folder / "shard-000000" / "tokens.parquet").read_bytes() == before and not list(folder.glob(".shard-*"))
    assert trace_of(read_dataset(folder)).equals(texts_of())
