"""The same numbers as the metrics of a trace, on a corpus that is small enough to be both."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from site_of_docs import DOCS, blocks
from small_corpus import texts_of

from moeviz.cli.main import main
from moeviz.corpus import analyses, experts, rows
from moeviz.errors import DamagedShard, InvalidTrace, MissingField
from moeviz.formats.dataset import convert
from moeviz.formats.dataset.opening import read_dataset
from moeviz.formats.dataset.reader import Dataset
from moeviz.formats.dataset.shard import ShardWriter
from moeviz.formats.exports import read_trace, write_trace
from moeviz.metrics import co_activation, coverage, flow, load, locality, specialization, vocabulary
from moeviz.metrics import expert as of_expert
from moeviz.metrics.expert import expert_flow, shared_tokens
from moeviz.metrics.expert_tokens import keeping_tokens
from moeviz.routing_trace import RoutingTrace

PAIRS = [
    (analyses.expert_load, load.expert_load),
    (analyses.coverage, load.coverage),
    (analyses.balance, load.balance),
    (analyses.experts_needed, coverage.experts_needed),
    (analyses.load_by_label, specialization.load_by_label),
    (analyses.label_information, specialization.label_information),
    (analyses.label_divergence, specialization.label_divergence),
    (analyses.co_activation, co_activation.co_activation),
    (analyses.consecutive_transitions, flow.consecutive_transitions),
    (analyses.consecutive_information, flow.consecutive_information),
    (analyses.locality, locality.locality),
    (analyses.locality_beside_mixtral, locality.locality_beside_mixtral),
    (rows.top_tokens, vocabulary.top_tokens),
]
ABSENT = {"shuffled", "shuffled_highest"}  # what needs all tokens at once


def dataset_of(trace: RoutingTrace, path: Path, monkeypatch) -> Dataset:
    """In several shards of several row groups."""

    class Small(ShardWriter):
        def __init__(self, *args) -> None:
            super().__init__(*args, rows=50)

    monkeypatch.setattr("moeviz.formats.dataset.folder.ShardWriter", Small)
    convert.write_dataset(trace, path, shard_tokens=120)
    return read_dataset(path)


def all_recorded() -> RoutingTrace:
    """With empty slots, and nothing that is not recorded."""
    trace = texts_of(12, 3)
    ids, weights = trace.experts.copy(), trace.weights.copy()
    lost = ids == -2
    ids[lost] = np.broadcast_to(np.arange(3, dtype=np.int16), ids.shape)[lost]
    ids[:, 50:55], weights[:, 50:55] = -1, 0
    return replace(trace, experts=ids, weights=weights)


@pytest.fixture(scope="module", params=["8, top-2, gaps", "12, top-3, empty slots", "top-1", "300, top-4"])
def both(request, tmp_path_factory) -> tuple[RoutingTrace, Dataset]:
    """A trace and its dataset, which no test may change."""
    made = {
        "8, top-2, gaps": lambda: texts_of(),
        "12, top-3, empty slots": all_recorded,
        "top-1": lambda: texts_of(8, 1),
        "300, top-4": lambda: texts_of(300, 4),
    }[request.param]()
    for array in (made.experts, made.weights):
        array.flags.writeable = False
    with pytest.MonkeyPatch.context() as monkeypatch:
        return made, dataset_of(made, tmp_path_factory.mktemp("both") / "corpus", monkeypatch)


@pytest.mark.parametrize(("analysis", "metric"), PAIRS, ids=lambda pair: pair.__name__)
@pytest.mark.parametrize("layers", [None, [1, 2]])
def test_an_analysis_has_the_numbers_of_the_metric(analysis, metric, layers, both):
    trace, dataset = both
    trace = trace if layers is None else trace.select(layers=layers)
    try:
        want = metric(trace)
    except InvalidTrace as error:
        with pytest.raises(InvalidTrace, match="one"):
            analysis(dataset, layers)
        assert "top_k" in str(error)
        return
    same_frames(analysis(dataset, layers), want)


def same_frames(got: pd.DataFrame, want: pd.DataFrame) -> None:
    keys = [name for name in want if want[name].dtype.kind in "iO" and name not in ("tokens", "pairs", "rank")]
    assert list(got) == list(want)
    known = [name for name in want if name not in ABSENT and not (got[name].isna() & ~want[name].isna()).any()]
    assert {*want} - {*known} <= ABSENT | {"load_chance", "uniform_chance"}
    order = [name for name in keys if name in ("layer", "from_layer", "label", "from_expert", "to_expert", "partner")]
    got, want = (
        frame.sort_values(order, kind="stable", ignore_index=True) if order else frame for frame in (got, want)
    )
    pd.testing.assert_frame_equal(got[known], want[known], rtol=1e-9, check_dtype=True)


def test_balance_over_time_is_the_balance_of_each_part(both):
    trace, dataset = both
    frame = analyses.balance_over_time(dataset)
    assert len(frame.drop_duplicates(["shard", "row_group"])) > 6
    sizes = [len(columns["text"]) for _, _, columns in dataset.scan(["text"])]
    first = trace.select(tokens=slice(0, sizes[0]))
    want = load.balance(first)
    got = frame.query("shard == 0 and row_group == 0")
    np.testing.assert_allclose(got.set_index("layer")["cv"].loc[want["layer"]], want["cv"])
    assert frame["assignments"].sum() == trace.filled.sum()
    of_trace = load.balance_over_time(trace, sizes[0]).query("part == 0")
    columns = list(of_trace)
    pd.testing.assert_frame_equal(got[got["layer"].isin(of_trace["layer"])][columns].reset_index(drop=True), of_trace)


@pytest.mark.parametrize(("layer", "expert"), [(1, 2), (2, 0), (3, 7)])
def test_an_expert_of_a_dataset_has_the_numbers_of_the_metrics(both, layer, expert, monkeypatch):
    trace, dataset = both
    same = pd.testing.assert_frame_equal
    for name, absent in (("expert_numbers", ["mean_weight"]), ("expert_loads", []), ("expert_kinds", ["luck"])):
        got, want = (getattr(of, name)(given, layer, expert) for of, given in ((experts, dataset), (of_expert, trace)))
        judged = [column for column in want if column not in ("stands_out", *absent)]
        same(got[judged], want[judged])
        assert got[absent].isna().all(axis=None) and list(got) == list(want)
    alone = trace.select(layers=[layer])
    same(experts.expert_atlas(dataset, layer, expert), of_expert.expert_atlas(trace, layer, expert))
    monkeypatch.setattr(experts, "MOST_CELLS", 1)
    same(experts.expert_atlas(dataset, layer, expert), of_expert.expert_atlas(alone, layer, expert))
    same(experts.partners(dataset, layer, expert), shared_tokens(alone, layer, expert))


def test_an_expert_of_a_dataset_has_the_flow_of_its_first_choices(both):
    """Of each side, that of a trace of top-1 with the tokens that have a first choice in both layers."""
    trace, dataset = both
    layers, of_first = trace.model.layers, replace(trace.model, top_k=1)
    first = replace(trace, model=of_first, experts=trace.experts[..., :1].copy(), weights=None, logits=None)
    for one, other in pairwise(layers):
        there = first.select(layers=[one, other])
        there = there.select(tokens=(there.experts >= 0).all(axis=(0, 2)))
        for at, (layer, side) in enumerate(((one, "after"), (other, "before"))):
            for expert in (int(np.bincount(there.experts[at, :, 0]).argmax()), 2):
                frames = experts.expert_flow(dataset, layer, expert), expert_flow(there, layer, expert)
                got, want = (frame[frame["side"] == side].reset_index(drop=True) for frame in frames)
                pd.testing.assert_frame_equal(got, want)
                assert len(want) or expert == 2


def test_tokens_that_keep_to_an_expert_are_those_of_the_metric(both):
    trace, dataset = both
    frame = experts.expert_specific_tokens(dataset, 1)
    assert len(frame) and (frame["code"] == frame["token_id"]).all()
    for expert in {*frame["expert"].head(40), 0}:
        got = frame[frame["expert"] == expert].drop(columns=["expert", "code"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(got, keeping_tokens(trace, 1, int(expert)).drop(columns="code"))


def test_an_expert_that_is_not_there_is_refused(both):
    _, dataset = both
    of_tables = experts.expert_numbers, experts.expert_loads, experts.expert_kinds
    for ask in (*of_tables, experts.partners, experts.expert_flow):
        for layer, expert in ((1, 300), (9, 0)):
            with pytest.raises(InvalidTrace, match=r"300|9"):
                ask(dataset, layer, expert)


def test_labels_by_the_million_do_not_stand_in_the_way_of_the_load(both, monkeypatch):
    trace, dataset = both
    monkeypatch.setattr("moeviz.formats.dataset.reader.MAX_CELLS", 2 * 4 * max(dataset.model.num_experts) - 1)
    assert dataset.counts().equals(trace.counts())
    with pytest.raises(InvalidTrace, match=r"2 .*4 "):
        analyses.load_by_label(dataset)


def test_a_text_that_goes_on_in_the_next_row_group_counts_once():
    """By hand: token 0 is in texts 1, 2 and 3, token 1 in texts 1 and 3."""
    found = experts._TextCounts(np.zeros(2, np.int64))
    for text, token in (([1, 1, 2], [0, 1, 0]), ([2, 2], [0, 0]), ([], []), ([2, 3], [0, 0]), ([3], [1])):
        found.add(np.array(text, np.int64), np.array(token, np.int64))
    assert found.counted.tolist() == [3, 2]


def test_contexts_of_one_token_are_of_that_token(both):
    trace, dataset = both
    expert = int(trace.counts().assignments[0, 1].argmax())
    has = (trace.experts[1] == expert).any(axis=-1)
    token = trace.tokens["token_id"][has].value_counts().index[0]
    own = trace.tokens[has & (trace.tokens["token_id"] == token)]
    found = rows.contexts(dataset, 1, expert, most=1000, token_id=int(token))
    assert found[["text", "position"]].to_numpy().tolist() == own[["sequence", "position"]].to_numpy().tolist()
    lines = rows.in_lines(found)
    assert list(lines) == ["before", "text", "after", "label", "weight"] and len(lines) == len(own)


def test_a_long_analysis_reports_its_progress_to_the_end(both):
    _, dataset = both
    for ask, of_layers in ((rows.top_tokens, [1, 2]), (experts.expert_specific_tokens, 1)):
        read: list[int] = []
        of: list[int] = []
        ask(dataset, of_layers, progress=lambda now, last, read=read, of=of: (read.append(now), of.append(last)))
        assert len(read) > 10 and read == sorted(read) and {*of} == {read[-1]}


def test_a_shard_that_is_damaged_is_named_without_a_path_and_can_be_left_out(tmp_path, monkeypatch):
    trace = all_recorded()
    dataset = dataset_of(trace, tmp_path / "corpus", monkeypatch)
    gone = dataset.shards[1]
    (gone.path / "load.parquet").unlink()
    with pytest.raises(DamagedShard, match="shard-000001") as caught:
        analyses.expert_load(dataset)
    assert str(tmp_path) not in str(caught.value) and caught.value.shard == 1
    rest = dataset.without({caught.value.shard})
    assert analyses.expert_load(rest)["tokens"].sum() < trace.filled.sum() and rest.left_out == (
        "shard-000001 is damaged.",
    )


def test_contexts_are_places_of_the_trace_where_the_expert_has_the_token(both):
    trace, dataset = both
    whole = trace.tokens
    for layer, expert in ((1, 2), (3, 0)):
        found = rows.contexts(dataset, layer, expert, most=15, seed=4)
        has = np.flatnonzero((trace.experts[layer] == expert).any(axis=-1))
        assert len(found) == min(15, len(has))
        for row in found.itertuples():
            at = whole.index[(whole["sequence"] == row.text) & (whole["position"] == row.position)][0]
            assert at in has and whole["label"][at] == row.label
            near = whole[(whole["sequence"] == row.text) & (abs(whole["position"] - row.position) <= rows.AROUND)]
            assert row.before == "".join(near["text"][near["position"] < row.position])
            assert row.after == "".join(near["text"][near["position"] > row.position])
        assert found.equals(rows.contexts(dataset, layer, expert, most=15, seed=4))
        assert not found.equals(rows.contexts(dataset, layer, expert, most=15, seed=5)) or len(has) <= 15


def test_each_token_of_an_expert_is_as_likely_in_the_sample(tmp_path, monkeypatch):
    trace = all_recorded()
    dataset = dataset_of(trace, tmp_path / "corpus", monkeypatch)
    tokens = int((trace.experts[0] == 1).any(axis=-1).sum())
    drawn = pd.concat(rows.contexts(dataset, 0, 1, most=tokens // 4, seed=seed) for seed in range(60))
    times = drawn.groupby(["text", "position"]).size()
    assert len(times) == tokens and times.max() < 30 and times.mean() == pytest.approx(60 * (tokens // 4) / tokens)


def test_what_a_dataset_does_not_hold_is_reported(tmp_path):
    trace = texts_of()
    bare = replace(trace, tokens=trace.tokens.drop(columns="label"), weights=None)
    convert.write_dataset(replace(bare, model=replace(bare.model, slot_order="unknown")), tmp_path / "a", text=False)
    dataset = read_dataset(tmp_path / "a")
    for analysis, sentence in (
        (analyses.load_by_label, "needs tokens with a label"),
        (analyses.consecutive_transitions, "first choice"),
        (rows.top_tokens, "written without them"),
    ):
        with pytest.raises(MissingField, match=sentence):
            analysis(dataset)
    with pytest.raises(MissingField, match="without"):
        rows.contexts(dataset, 0, 0)
    with pytest.raises(InvalidTrace, match="expert 8"):
        rows.contexts(dataset, 0, 8)
    assert set(analyses.locality(dataset)["choice"]) == {"first or second choice"}
    with pytest.raises(InvalidTrace, match="layer 9"):
        analyses.expert_load(dataset, [9])


def test_an_empty_trace_comes_back_from_a_dataset_which_has_empty_numbers(tmp_path):
    trace = texts_of().select(tokens=slice(0, 0))
    convert.write_dataset(trace, tmp_path / "a")
    dataset = read_dataset(tmp_path / "a")
    assert convert.trace_of(dataset).equals(trace)
    assert analyses.expert_load(dataset)["tokens"].sum() == 0 and len(rows.contexts(dataset, 0, 0)) == 0
    assert len(analyses.balance_over_time(dataset)) == 0 and analyses.balance(dataset)["cv"].isna().all()


# On the command line


def test_metrics_and_convert_read_a_dataset(tmp_path, capsys):
    trace = texts_of()
    write_trace(trace, tmp_path / "trace.npz")
    assert main(["convert", str(tmp_path / "trace.npz"), str(tmp_path / "corpus")]) == 0
    assert "<Dataset of 'sample': 400 tokens in 1 shards" in capsys.readouterr().err
    for topic, name in (
        ("load", "expert_load"),
        ("co-activation", "co_activation"),
        ("flow", "consecutive_information"),
    ):
        assert main(["metrics", str(tmp_path / "corpus"), "--topic", topic, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[name]
    assert main(["metrics", str(tmp_path / "corpus"), "--topic", "confidence"]) == 3
    assert "needs all tokens at once" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "corpus"), str(tmp_path / "back.npz")]) == 0
    assert read_trace(tmp_path / "back.npz").equals(trace)
    assert main(["convert", str(tmp_path / "corpus"), str(tmp_path / "more")]) == 3
    assert "is a dataset already" in capsys.readouterr().err
    (tmp_path / "corpus" / "shard-000000" / "flow.parquet").unlink()
    assert main(["metrics", str(tmp_path / "corpus")]) == 3
    assert "flow.parquet is missing" in capsys.readouterr().err
    assert main(["metrics", str(tmp_path / "corpus"), "--partial"]) == 0
    assert "left out: shard-000000" in capsys.readouterr().err


def test_the_doctor_reads_every_byte_of_a_dataset(tmp_path, capsys):
    convert.write_dataset(texts_of(), tmp_path / "corpus", shard_tokens=120)
    assert main(["check", str(tmp_path / "corpus")]) == 0
    assert "as it was written" in capsys.readouterr().out
    rows_file = tmp_path / "corpus" / "shard-000002" / "tokens.parquet"
    data = bytearray(rows_file.read_bytes())
    data[2000] ^= 1
    rows_file.write_bytes(data)
    (tmp_path / "corpus" / "shard-000001" / "flow.parquet").unlink()
    assert main(["check", str(tmp_path / "corpus"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == [
        "shard-000001 is damaged: flow.parquet is missing.",
        "shard-000002 is damaged: tokens.parquet is not what was written.",
    ]


# The queries of the docs

PAGE = (DOCS / "reference" / "datasets.md").read_text(encoding="utf-8")


@pytest.fixture
def mine(tmp_path, monkeypatch) -> RoutingTrace:
    """The folder that the page calls “mine”."""
    trace = texts_of()
    convert.write_dataset(trace, tmp_path / "mine", shard_tokens=120)
    monkeypatch.chdir(tmp_path)
    return trace


def check_answers(trace: RoutingTrace, loads: pd.DataFrame, labels: pd.DataFrame, first: dict[int, int]) -> None:
    want = load.expert_load(trace).query("tokens > 0")
    got = loads.sort_values(["layer", "expert"])[["layer", "expert", "tokens"]].astype(int)
    assert got.to_numpy().tolist() == want[["layer", "expert", "tokens"]].to_numpy().tolist()
    assert {row.label: int(row.tokens) for row in labels.itertuples()} == trace.tokens["label"].value_counts().to_dict()
    ids, times = np.unique(trace.experts[1, :, 0], return_counts=True)
    assert first == dict(zip(ids.tolist(), times.tolist(), strict=True))


def test_duckdb_reads_the_files_by_the_queries_of_the_page(mine):
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed; the queries of the docs are not run.")
    loads, labels, firsts = (duckdb.sql(query).df() for query in blocks(PAGE, "sql"))
    check_answers(mine, loads, labels, {int(row.expert, 16): row.tokens for row in firsts.itertuples()})


def test_polars_reads_the_files_by_the_queries_of_the_page(mine):
    polars = pytest.importorskip("polars", reason="Polars is not installed; the queries of the docs are not run.")
    loads, labels, firsts = (eval(query.strip(), {"polars": polars}) for query in blocks(PAGE, "py"))
    found = dict(firsts.iter_rows())
    frames = (pd.DataFrame(frame.to_dicts()) for frame in (loads, labels))
    check_answers(mine, *frames, {first[0]: count for first, count in found.items()})
