"""Tables of a trace in any order, with any columns, of any dtypes; and files that moeviz wrote before."""

import csv
import io
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from any_trace import any_trace
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from rich_trace import EVERY, READABLE, again

from moeviz.errors import InvalidTrace, MissingField
from moeviz.formats.csv_file import to_csv
from moeviz.formats.exports import EXPORTS, read_bytes
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")


def sorted_csv(data: bytes, order) -> bytes:
    """The rows of a CSV in another order, cells as they were."""
    names, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    return csv_of(names, [rows[row] for row in order(len(rows))])


def csv_of(names, rows) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *rows])
    return out.getvalue().encode()


def sorted_parquet(data: bytes, order) -> bytes:
    table = parquet.read_table(io.BytesIO(data))
    return written(table.take(pa.array(order(len(table)), pa.int64())))


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


SORTED = {".csv": sorted_csv, ".parquet": sorted_parquet}


# Order


@pytest.mark.parametrize("suffix", SORTED)
@given(drawn=any_trace(), seed=st.integers(0, 2**16))
def test_a_table_reopens_as_the_same_trace_in_whatever_order_its_rows_come(suffix, drawn, seed):
    export, trace = next(export for export in EXPORTS if export.suffix == suffix), drawn.trace()
    table = SORTED[suffix](export.write(trace), np.random.default_rng(seed).permutation)
    assert export.read(table).equals(trace)


@pytest.mark.parametrize("export", READABLE[2:], ids=lambda export: export.suffix)
@given(drawn=any_trace())
def test_any_trace_comes_back_from_a_file_without_rows_too(export, drawn):
    assert again(export, drawn.trace()).equals(drawn.trace())


@given(drawn=any_trace(), seed=st.integers(0, 2**16), columns=st.sets(st.sampled_from(["slot", "weight", "token"])))
def test_a_plain_table_is_the_same_trace_in_whatever_order_its_rows_and_columns_come(drawn, seed, columns):
    rng, trace = np.random.default_rng(seed), drawn.trace()
    names, *rows = csv.reader(io.StringIO(to_csv(trace).decode(), newline=""))
    kept = [names.index(name) for name in ("sequence", "position", "layer", "expert", *columns) if name in names]
    if not trace.filled.any():
        return
    plain = [[row[column] for column in kept] for row in rows]
    first = read_bytes(csv_of([names[column] for column in kept], plain), "x.csv")
    turned = rng.permutation(len(kept))
    more = [[*(plain[row][column] for column in turned), "extra"] for row in rng.permutation(len(plain))]
    assert read_bytes(csv_of([*(names[kept[column]] for column in turned), "notes"], more), "x.csv").equals(first)


@given(drawn=any_trace(), kinds=st.lists(st.sampled_from(INTEGERS), min_size=6, max_size=6))
def test_whole_numbers_of_any_dtype_are_the_same_trace(drawn, kinds):
    """Those that the dtype can hold: ids of experts go up to 19,999 here, and -1 is an unknown token id."""
    export, trace = EXPORTS[1], drawn.trace()
    table = parquet.read_table(io.BytesIO(export.write(trace)))
    for name, kind in zip(("sequence", "position", "token_id", "layer", "slot", "expert"), kinds, strict=True):
        values = table.column(name).to_numpy()
        if np.array_equal(values.astype(kind).astype(np.float64), values.astype(np.float64)):
            column = pa.array(values.astype(kind))
            table = table.set_column(table.schema.get_field_index(name), name, column)
    assert export.read(written(table)).equals(trace)


@pytest.mark.parametrize("cell", ["3", "3.0", " 3", "3e0", '"3"', "+3"])
def test_a_whole_number_may_be_written_in_several_ways(cell):
    trace = read_bytes(f"position,layer,expert\n0,0,{cell}\n".encode(), "x.csv")
    assert trace.experts.tolist() == [[[3]]]


# What a table does not say


def plain(text: str):
    return read_bytes(text.encode(), "x.csv")


def test_a_plain_table_does_not_say_why_a_token_has_no_row_at_a_layer():
    trace = plain("position,layer,expert,slot\n0,0,1,0\n0,0,2,1\n1,0,3,0\n0,7,4,0\n")
    assert trace.experts.tolist() == [[[1, 2], [3, NO_EXPERT]], [[4, NO_EXPERT], [NOT_RECORDED] * 2]]
    assert trace.recorded.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(
    ("columns", "order"), [("expert", "unknown"), ("expert,slot", "weight"), ("expert,weight", "weight")]
)
def test_a_plain_table_says_the_order_of_slots_by_slot_or_by_weight_or_not_at_all(columns, order):
    rows = {"expert": ("5", "2"), "expert,slot": ("5,0", "2,1"), "expert,weight": ("5,0.6", "2,0.4")}[columns]
    trace = plain(f"position,layer,{columns}\n" + "".join(f"0,0,{row}\n" for row in rows))
    assert trace.model.slot_order == order
    if order == "unknown":
        with pytest.raises(MissingField, match="2 experts"):
            trace.first_choices("This")
    else:
        assert trace.first_choices("This").tolist() == [[5]]


def test_one_expert_a_token_is_its_first_choice_in_any_table():
    assert plain("position,layer,expert\n0,0,5\n1,0,2\n").model.slot_order == "weight"


def test_equal_weights_of_a_plain_table_go_by_the_lower_expert():
    rows = ("0,0,7,0.5", "0,0,3,0.5", "0,0,5,0.5")
    for order in permutations(rows):
        assert plain("position,layer,expert,weight\n" + "\n".join(order)).experts.tolist() == [[[3, 5, 7]]]


# Sizes


def test_more_experts_than_we_read_are_refused_before_anything_is_made():
    rows = "".join(f"0,{layer},32766\n" for layer in range(4_000))
    with pytest.raises(InvalidTrace, match=r"4,000 layers.*32,767 experts.*131,068,000.*65,536"):
        plain("position,layer,expert\n" + rows)


def test_more_layers_than_we_read_are_refused():
    with pytest.raises(InvalidTrace, match=r"5,000 layers.*4,096"):
        plain("position,layer,expert\n" + "".join(f"0,{layer},0\n" for layer in range(5_000)))


@EVERY
def test_a_trace_of_more_experts_than_we_read_is_not_written(export, ids_only_trace):
    model = replace(ids_only_trace.model, num_experts=(32_767,) * 4)
    with pytest.raises(InvalidTrace, match=r"4 layers.*32,767 experts.*131,068.*65,536"):
        export.write(replace(ids_only_trace, model=model))


def test_a_text_that_a_small_parquet_file_repeats_is_bounded_by_the_size_of_the_file():
    rows = 2_000
    token = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 100_000]))
    columns = {"position": np.arange(rows), "layer": np.zeros(rows, np.int8), "expert": np.zeros(rows, np.int8)}
    with pytest.raises(InvalidTrace, match=r"200,000,000 bytes.*8,388,608"):
        EXPORTS[1].read(written(pa.table(columns | {"token": token})))


def test_a_table_says_its_tokens_once_only_where_rows_are_many(trace):
    """Facts stay short: one run for the order of tokens, one for those that a layer did not record."""
    from moeviz.formats.table_facts import facts_beside_table

    experts = trace.experts.copy()
    experts[1, 5:20] = NOT_RECORDED
    facts = facts_beside_table(replace(trace, experts=experts, weights=None, logits=None))
    assert facts["token_order"] == [[0, 32]] and facts["not_recorded"] == {"1": [[5, 15]]}
    assert pd.DataFrame(facts["idle_tokens"]).empty
