"""Every format: what it keeps comes back to the last bit, and whatever bytes come in, one sentence goes out."""

import csv
import io
import json
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from rich_trace import EVERY, again, rich_trace

import moeviz
from moeviz.cli.main import main
from moeviz.errors import InvalidTrace, MoevizError
from moeviz.formats.assignments_table import BYTES_A_ROW, table_of, trace_of_table
from moeviz.formats.csv_file import IN_LAST_ROW, to_csv
from moeviz.formats.exports import EXPORTS, export_for, left_out, read_bytes, read_trace, write_trace
from moeviz.formats.parquet_file import from_parquet, to_parquet
from moeviz.formats.table_facts import short_floats
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, RoutingTrace, token_frame
from moeviz.spreadsheets import escape_formula
from moeviz.testing import sample_trace

CSV, PARQUET, JSON = (export_for(f"x.{form}") for form in ("csv", "parquet", "json"))
AWKWARD = (
    *(
        "NA",
        "null",
        "nan",
        "None",
        "NULL",
        "",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\0",
        '"',
        '""',
        ",",
        ";",
        "a,b",
        'say "x"',
    ),
    *("=1+1", "+1", "-1", "@x", " =1", "\t=1", "\n=1", "'quoted", "''", "'=1", "＝1", "＋1", "－1", "＠x", "\ufeff=1"),
    *("🙂", "é", "\u202eabc", "⟨é 1/2⟩", "1.0", "007", "True", "1e5", "<b>", "\\n", "x\0y", "\x1b[31m", "last "),
)


def trace_of_texts(texts: tuple[str, ...]) -> RoutingTrace:
    trace = sample_trace(tokens=len(texts))
    return replace(trace, tokens=trace.tokens.assign(text=pd.Series(texts, dtype="str")))


def kept_by(export, trace: RoutingTrace) -> RoutingTrace:
    """What the format promises to keep."""
    return replace(trace, logits=None) if export.suffix in (".csv", ".parquet") else trace


@EVERY
def test_a_trace_comes_back_equal(export, trace):
    assert again(export, trace).equals(kept_by(export, trace))


@EVERY
def test_labels_counts_and_tokens_without_experts_come_back(export):
    trace = rich_trace()
    assert again(export, trace).equals(kept_by(export, trace))


@EVERY
def test_a_hole_between_slots_comes_back_where_weights_are_unknown(export, ids_only_trace):
    ids_only_trace.experts[2, 3, 0] = NO_EXPERT
    assert again(export, ids_only_trace).equals(ids_only_trace)


@EVERY
def test_awkward_tokens_come_back_exactly(export):
    trace = trace_of_texts(AWKWARD)
    assert again(export, trace).tokens["text"].tolist() == list(AWKWARD)
    assert again(export, trace).equals(kept_by(export, trace))


@EVERY
def test_weights_come_back_to_the_last_bit(export):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    weights = np.append(bits[np.isfinite(bits)], np.float32([1e-45, 3.4028235e38, 16777216, 1 / 3])).astype(np.float32)
    trace = sample_trace(layers=1, tokens=len(weights), top_k=1)
    trace = replace(trace, weights=weights.reshape(1, -1, 1), logits=None)
    assert again(export, trace).weights.view(np.uint32).tolist() == trace.weights.view(np.uint32).tolist()


@EVERY
def test_a_token_column_that_no_format_knows_is_not_lost_in_silence(export, trace):
    with pytest.raises(InvalidTrace, match="'mood'"):
        export.write(replace(trace, tokens=trace.tokens.assign(mood="good")))


@EVERY
def test_a_model_that_no_reader_would_accept_is_not_written(export, trace):
    with pytest.raises(InvalidTrace, match="name"):
        export.write(replace(trace, model=replace(trace.model, name="\ud800")))


@pytest.mark.parametrize("number", [0.3, 1e-10, 1e-45, 16777216.0, 123456.79, -0.0])
def test_short_floats_round_to_the_same_float32(number):
    values = np.float32([number])
    short = short_floats(values)
    assert short.astype(np.float32) == values and repr(short.tolist()[0]) == repr(number)


# Files and names


@EVERY
def test_a_path_chooses_the_format_by_its_suffix_in_any_case(export, trace, tmp_path):
    path = tmp_path / f"a trace{export.suffix.upper()}"
    write_trace(trace, path)
    assert read_trace(path).equals(kept_by(export, trace))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["trace.xlsx", "trace", ".csv", "trace.csv.gz", ""])
def test_an_unknown_suffix_gets_the_list_of_suffixes(name, trace, tmp_path):
    for act in (
        lambda: read_bytes(b"", name),
        lambda: write_trace(trace, tmp_path / f"x{name}x"),
        lambda: export_for(name),
    ):
        with pytest.raises(InvalidTrace, match=r"\.csv, \.parquet, \.json, \.npz"):
            act()


def test_a_failed_write_leaves_the_file_that_was_there(trace, tmp_path):
    path = tmp_path / "trace.json"
    write_trace(trace, path)
    before = path.read_bytes()
    with pytest.raises(InvalidTrace):
        write_trace(replace(trace, tokens=trace.tokens.assign(mood="good")), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_file_larger_than_we_read_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.csv"
    path.write_bytes(b"x" * 100)
    with pytest.raises(InvalidTrace, match=r"'large\.csv'.*100 bytes"):
        read_trace(path, max_bytes=99)


# CSV


def test_a_csv_opens_in_plain_pandas(trace):
    table = pd.read_csv(io.BytesIO(CSV.write(trace)))
    assert len(table) == trace.experts.size
    assert list(table.columns) == [
        *("sequence", "position", "phase", "token_id", "token", "layer", "slot", "expert", "weight"),
        *("logit", "probability", "about"),
    ]
    assert table["expert"].dtype == "int64" and table["weight"].dtype == "float64"
    assert json.loads(table["about"].iloc[-1])["model"]["name"] == "sample" and table["about"][1:-1].isna().all()
    assert table["about"][0] == IN_LAST_ROW  # which is all of it that a spreadsheet shows


def test_pandas_leaves_every_token_as_it_is_when_told_to():
    data = CSV.write(trace_of_texts(AWKWARD))
    empty = {"weight": "", "logit": "", "probability": ""}
    table = pd.read_csv(io.BytesIO(data), keep_default_na=False, na_values=empty).drop_duplicates("position")
    assert table["token"].tolist() == [escape_formula(text) for text in AWKWARD]
    assert table["weight"].dtype == "float64"


def test_a_csv_says_the_logit_and_the_probability_of_the_chosen_expert(trace):
    table = pd.read_csv(io.BytesIO(CSV.write(trace)))
    row = table[(table["position"] == 3) & (table["layer"] == 2) & (table["slot"] == 1)].iloc[0]
    expert = trace.experts[2, 3, 1]
    assert np.float32(row["logit"]) == trace.logits[2, 3, expert]
    assert np.float32(row["probability"]) == trace.probabilities("This")[2, 3, expert]


def test_no_cell_of_a_csv_is_a_formula():
    rows = list(csv.reader(io.StringIO(CSV.write(trace_of_texts(AWKWARD)).decode(), newline="")))
    columns = [rows[0].index(name) for name in ("token", "phase", "about")]
    cells = [row[column].lstrip("\ufeff \t\r\n") for row in rows[1:] for column in columns]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))]


@pytest.mark.parametrize("text", ["", " ", "a=1", "1-1", "x'", "(=1)", "é"])
def test_a_harmless_text_stays_as_it_is(text):
    assert escape_formula(text) == text


def test_a_csv_that_lost_rows_is_refused(trace):
    lines = CSV.write(sample_trace()).split(b"\n")
    for kept, sentence in ((lines[:40], "cut"), (lines[:40] + lines[60:], "edited")):
        with pytest.raises(InvalidTrace, match=sentence):
            CSV.read(b"\n".join(kept) + b"\n")


def test_a_plain_csv_has_the_rows_alone(trace, tmp_path):
    write_trace(trace, tmp_path / "plain.csv", plain=True)
    plain, whole = (pd.read_csv(io.BytesIO(data)) for data in ((tmp_path / "plain.csv").read_bytes(), to_csv(trace)))
    assert plain.equals(whole.drop(columns="about"))
    assert (read_trace(tmp_path / "plain.csv").experts == trace.experts).all()
    with pytest.raises(MoevizError, match=r"'plain\.npz'"):
        write_trace(trace, tmp_path / "plain.npz", plain=True)


def test_a_csv_opens_again_when_excel_has_marked_it_as_utf8(trace):
    assert CSV.read(b"\xef\xbb\xbf" + CSV.write(trace)).equals(replace(trace, logits=None))


def plain(text: str) -> RoutingTrace:
    return read_bytes(text.encode(), "by hand.csv")


def test_a_plain_csv_needs_position_layer_and_expert_only():
    trace = plain("layer,position,expert\n3,1,4\n3,0,2\n7,0,1\n7,1,0\n7,1,5")
    assert trace.model == ModelInfo("from by hand.csv", "file", (3, 7), (5, 6), 2, slot_order="unknown")
    assert trace.experts.tolist() == [[[2, -1], [4, -1]], [[1, -1], [0, 5]]]
    assert trace.weights is None and trace.logits is None
    expected = token_frame(np.zeros(2), np.arange(2), ["", ""])
    assert trace.tokens.equals(expected)


def test_a_plain_csv_is_sorted_by_weight_and_its_texts_are_taken_as_they_are():
    trace = plain(
        "position,layer,expert,weight,token,phase,token_id\n0,0,1,0.25,'=a,generated,9\n0,0,3,0.75,'=a,generated,9\n"
    )
    assert trace.experts.tolist() == [[[3, 1]]] and trace.weights.tolist() == [[[0.75, 0.25]]]
    assert trace.tokens.equals(token_frame(np.zeros(1), np.zeros(1), ["'=a"], np.array([9]), ["generated"]))


def test_slots_of_a_plain_csv_may_count_from_one_and_miss_some():
    trace = plain("position,layer,expert,slot\n0,0,1,1000000\n0,0,3,1\n")
    assert trace.experts.tolist() == [[[3, 1]]]


def test_empty_cells_of_a_plain_csv_are_what_is_not_known():
    trace = plain("sequence,position,layer,expert,weight,token,token_id,phase\n,0,0,1,,,,\n")
    assert trace.weights is None
    assert trace.tokens.equals(token_frame(np.zeros(1), np.zeros(1), [""]))


def test_an_unnamed_table_keeps_its_new_name_when_it_is_written_again():
    first = plain("layer,position,expert\n0,0,0\n")
    assert read_bytes(CSV.write(first), "other.csv").equals(first)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,age\nx,3\n", r"\['name'.*'age'\]"),
        ("layer,expert,slot\n0,3,0\n", "a trace also needs position"),
        ("position,layer,expert\n", "no rows"),
        ("position,position,layer,expert\n0,0,0,1\n", "the same name"),
        ("position,layer,expert\n0,0,1\n0,0\n", "not a CSV table"),
        ("position,layer,expert\n0,0,1\nx,0,1\n", "2.*'x'"),
        ("position,layer,expert\n0,0,40000\n", "expert is '40000'; .* from 0 to 32766"),
        ("position,layer,expert\n0,0,-1\n", "expert is '-1'"),
        ("position,layer,expert\n0,0,1.5\n", r"expert is '1\.5'"),
        ("position,layer,expert\n0,0,inf\n", "expert is 'inf'"),
        ("position,layer,expert\n0,,1\n", "layer is empty"),
        ("position,layer,expert\n0,1000000000000,1\n", "layer is '1000000000000'"),
        ("position,layer,expert\n1000000000000,0,1\n", "position is '1000000000000'"),
        (f"position,layer,expert\n{'9' * 5000},0,1\n", r"position is '9+\.\.\.; it must"),
        ("position,layer,expert\n0,0,1\n0,0,1\n", "Row 2 .* has that expert at this layer already"),
        ("position,layer,expert,slot\n0,0,1,0\n0,0,2,0\n", "same token, layer and slot"),
        ("position,layer,expert,weight\n0,0,1,0.5\n0,0,2,\n", "Row 2 .* weight"),
        ("position,layer,expert,weight\n0,0,1,nan\n", "weight is 'nan'"),
        ("position,layer,expert,weight\n0,0,1,1e39\n", "weight is '1e39'"),
        ("position,layer,expert,phase\n0,0,1,thinking\n", "'thinking'"),
        ("position,layer,expert,token\n0,0,1,a\n0,0,2,b\n", "2.*'b'"),
        ("position,layer,expert,about\n0,0,1,hello\n", "'about'.*JSON"),
        ("position,layer,expert,about\n0,0,1,{}\n", "needs sequence, phase"),
        (",".join(f"c{i}" for i in range(5000)) + "\n", "more than 100 columns"),
    ],
)
def test_a_wrong_table_gets_one_sentence(text, sentence):
    with pytest.raises(InvalidTrace, match=sentence):
        plain(text)


def test_a_plain_csv_with_enormous_numbers_makes_no_enormous_arrays():
    trace = plain("position,layer,expert,slot\n2147483647,1000000000,32766,1000000\n0,5,0,0\n")
    assert trace.experts.shape == (2, 2, 1)


def test_a_table_that_would_unfold_into_too_many_cells_is_refused():
    rows = [f"{i},{i},0" for i in range(4000)]
    with pytest.raises(InvalidTrace, match=r"4,000 layers.*4,000 tokens.*1 slots.*16,000,000 cells.*1,048,576"):
        plain("position,layer,expert\n" + "\n".join(rows))


def test_a_table_with_too_many_rows_is_refused(trace):
    with pytest.raises(InvalidTrace, match=r"256 .*10"):
        trace_of_table(table_of(trace), max_bytes=10 * BYTES_A_ROW)


def edited_csv(edit) -> bytes:
    """The CSV of the rich trace with its facts changed by a function."""
    rows = list(csv.reader(io.StringIO(CSV.write(rich_trace()).decode(), newline="")))
    about = json.loads(rows[-1][-1])
    edit(about)
    rows[-1][-1] = json.dumps(about)
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda about: about.update(format="moeviz trace v9"), "reads 'moeviz trace v2'"),
        (lambda about: about.update(rows="6"), "cut or edited"),
        (lambda about: about["model"].update(layers=[1, 6], num_layers=8), r"5.*\(1.*6\)"),
        (lambda about: about["model"].update(top_k=1), "slot is 1; it must be from 0 to 0"),
        (lambda about: about["model"].update(num_experts=[3, 2]), "Got expert 3 in layer 1"),
        (
            lambda about: about["model"].update(top_k=30_000, layers=[*range(2000)], num_experts=[4] * 2000),
            "2,000 layers",
        ),
        (lambda about: about.update(weights=False), "its rows disagree"),
        (lambda about: about.pop("idle_tokens"), "tokens of a trace file"),
        (lambda about: about["idle_tokens"].update(row=[1, 1]), "unknown column 'row'"),
        (lambda about: about.pop("token_order"), "4 tokens"),
        (lambda about: about.update(token_order=[[0, 3]]), "3 tokens.*4"),
        (lambda about: about.update(token_order=[[0, 3], [2, 1]]), "the order of the tokens, which does not fit"),
        (lambda about: about.update(token_order=[[1, 4]]), "the order of the tokens, which does not fit"),
        (lambda about: about.update(token_order=[[0, 10**18]]), "the order of the tokens, which does not fit"),
        (lambda about: about.update(token_order=[[0, 4, 1]]), "the order of the tokens, which does not fit"),
        (lambda about: about.update(token_order=[[0.0, 4]]), "the order of the tokens, which does not fit"),
        (lambda about: about.update(token_order=[[True, 3], [0, 1]]), "the order of the tokens, which does not fit"),
        (lambda about: about.pop("not_recorded"), "not_recorded"),
        (lambda about: about.update(not_recorded=[[0, 1]]), "it must give tokens by layer"),
        (lambda about: about.update(not_recorded={"2": [[0, 1]]}), r"by layer, one of \(1, 5\)"),
        (lambda about: about.update(not_recorded={"5": [[0, 1]]}), "layer 5"),
        (lambda about: about.update(not_recorded={"5": [[1, 1], [1, 1]]}), "layer 5"),
        (lambda about: about.update(not_recorded={"5": [[1, -1]]}), "layer 5"),
        (lambda about: about.update(not_recorded={"5": [[4, 1]]}), "layer 5"),
        (lambda about: about.update(not_recorded={"5": [[1, 1]] * 9}), "layer 5"),
        (lambda about: about.update(not_recorded={"5": {"1": 1}}), "layer 5"),
        (lambda about: about.update(not_recorded={"5": [[1]]}), "layer 5"),
        (
            lambda about: about["model"].update(num_experts=[32_767] * 3, layers=[1, 5, 6]),
            "3 layers.*32,767 experts.*98,301.*65,536",
        ),
        (lambda about: about["model"].update(slot_order="unknown"), "slot_order.*'unknown'"),
        (lambda about: about["model"].update(slot_order="alphabet"), "slot_order is 'alphabet'"),
        (lambda about: about["idle_tokens"].pop("label"), "only one of the two has labels"),
    ],
)
def test_facts_that_do_not_fit_their_rows_are_refused(edit, sentence):
    with pytest.raises(InvalidTrace, match=sentence):
        CSV.read(edited_csv(edit))


def test_two_rows_for_one_slot_are_refused():
    rows = CSV.write(rich_trace()).split(b"\n")
    rows[2] = rows[1].rpartition(b",")[0] + b","
    with pytest.raises(InvalidTrace, match="slot"):
        CSV.read(b"\n".join(rows))


# Parquet


def parquet_of(columns: dict, **options) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def test_parquet_keeps_the_dtypes(trace):
    table = pd.read_parquet(io.BytesIO(PARQUET.write(trace)))
    kinds = {name: str(kind) for name, kind in table.dtypes.items()}
    integers = {"sequence": "int32", "position": "int32", "token_id": "int32", "layer": "int32", "slot": "int16"}
    floats = dict.fromkeys(("weight", "logit", "probability"), "float32")
    assert kinds == {"phase": "str", "token": "str", "expert": "int16"} | integers | floats


def test_a_plain_parquet_file_opens_like_a_plain_csv():
    data = parquet_of({"position": [1, 0], "layer": [0, 0], "expert": [2, 1], "weight": [1.0, 0.5], "more": [[1], [2]]})
    text = b"position,layer,expert,weight\n1,0,2,1\n0,0,1,0.5\n"
    assert PARQUET.read(data).equals(CSV.read(text))
    assert read_bytes(data, "x.parquet").model.name == "from x.parquet"


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"name": ["x"]}, r"\['name'\]"),
        ({"position": [[1]], "layer": [0], "expert": [0]}, "'position'"),
        ({"position": [True], "layer": [0], "expert": [0]}, "'position'"),
        ({"position": ["0"], "layer": [0], "expert": [0]}, "'position'"),
        ({"position": [0], "layer": [0], "expert": [0], "token": [7]}, "'token'.*int64"),
        ({"position": [0, None], "layer": [0, 0], "expert": [0, 0]}, "Row 2 of the table: position is empty"),
        ({"position": [0.5], "layer": [0], "expert": [0]}, r"position is 0\.5"),
    ],
)
def test_a_wrong_parquet_file_gets_one_sentence(columns, sentence):
    with pytest.raises(InvalidTrace, match=sentence):
        read_bytes(parquet_of(columns), "x.parquet")


def test_two_parquet_columns_of_one_name_are_refused():
    table = pa.table([pa.array([0]), pa.array([0])], names=["layer", "layer"])
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    with pytest.raises(InvalidTrace, match="name"):
        PARQUET.read(sink.getvalue().to_pybytes())


def test_parquet_sizes_are_checked_before_anything_is_unpacked(monkeypatch):
    data = parquet_of({"position": range(1000), "layer": [0] * 1000, "expert": [0] * 1000})
    monkeypatch.delattr("pyarrow.parquet.ParquetFile.read")
    with pytest.raises(InvalidTrace, match=r"1,000 rows.*900"):
        PARQUET.read(data, 900 * BYTES_A_ROW)
    texts = {"token": [f"{n}" * 200 for n in range(1000)]}  # more than the rows' share of the budget
    with pytest.raises(InvalidTrace, match=r"\d{3},\d{3} bytes.* 128,000"):
        PARQUET.read(parquet_of(texts), 1000 * BYTES_A_ROW)


# JSON


def test_json_is_strict_and_says_minus_infinity_as_null():
    text = JSON.write(rich_trace()).decode()
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["logits"][1][0][2:] == [None, None]
    assert content["weights"][0][0] == [0.7, 0.1] and content["experts"][0][0] == [3, 0]
    assert content["model"]["layers"] == [1, 5] and content["tokens"]["text"][2] == "=c"


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda content: content.pop("format"), "reads 'moeviz trace v2'"),
        (lambda content: content.pop("experts"), "2 layers"),
        (lambda content: content.update(extra=1), "unknown key 'extra'"),
        (lambda content: content["experts"].pop(), "2 layers"),
        (lambda content: content["experts"][0].pop(), "lists of 4 tokens"),
        (lambda content: content["experts"][0][0].pop(), "2 numbers"),
        (lambda content: content["experts"][0][0].__setitem__(0, "3"), "-2.*32766"),
        (lambda content: content["experts"][0][0].__setitem__(0, 2.0), "not a whole number"),
        (lambda content: content["experts"][0][0].__setitem__(0, 10**30), "not a whole number"),
        (
            lambda content: content["weights"][0][0].__setitem__(0, None),
            "weights contain something that is not a number",
        ),
        (lambda content: content["weights"][0][0].__setitem__(0, True), "not a number"),
        (lambda content: content["weights"][0][0].__setitem__(0, 10**400), "too large"),
        (lambda content: content["weights"][0][0].__setitem__(0, 1e39), "NaN or infinity"),
        (lambda content: content["logits"][0][0].__setitem__(0, "x"), "not a number"),
        (lambda content: content["logits"][0][0].__setitem__(0, 1e39), r"\+infinity"),
        (lambda content: content["logits"].__setitem__(0, {}), "lists of 4 tokens"),
    ],
)
def test_a_wrong_json_trace_gets_one_sentence(edit, sentence):
    content = json.loads(JSON.write(rich_trace()))
    edit(content)
    with pytest.raises(InvalidTrace, match=sentence):
        JSON.read(json.dumps(content).encode())


@pytest.fixture(scope="module")
def whole():
    """A trace with every optional part."""
    return moeviz.trace(moeviz.load_model(), "Il fait froid.", next_tokens=True, outputs=True)


def test_every_part_that_a_format_loses_is_named_and_all_others_come_back(whole):
    """`left_out` against what comes back from each format that is read."""
    parts = {"logits": "logits", "next_tokens": "next tokens", "outputs": "outputs"}
    for export in EXPORTS:
        if export.read is not None:
            read = export.read(export.write(whole), 2**30)
            lost = {words for name, words in parts.items() if getattr(read, name) is None}
            assert read.logits is None or np.array_equal(read.logits, whole.logits)
            assert read.outputs is None or read.outputs.equals(whole.outputs)
            assert read.next_tokens is None or read.next_tokens.equals(whole.next_tokens)
            assert {words for words in parts.values() if words in left_out(whole, export.suffix)} == lost
        bare = replace(whole, logits=None, next_tokens=None, outputs=None)
        assert not left_out(bare, export.suffix)


@pytest.mark.parametrize("target", ["a.csv", "dataset"])
def test_convert_names_what_is_left_out(whole, target, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_trace(whole, "whole.npz")
    assert main(["convert", "whole.npz", target]) == 0
    said = capsys.readouterr().err
    assert all(words in said for words in ("logits", "next tokens", "outputs"))


def test_a_flipped_bit_of_a_parquet_file_never_becomes_another_trace(trace):
    data, chance = to_parquet(trace), random.Random(0)
    written, refused = from_parquet(data), 0
    for _ in range(200):
        at, damaged = chance.randrange(8 * len(data)), bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        try:
            read = from_parquet(bytes(damaged))
        except InvalidTrace:
            refused += 1
            continue
        assert read.model == written.model and read.tokens.equals(written.tokens)
        assert np.array_equal(read.experts, written.experts) and np.array_equal(read.weights, written.weights)
    assert refused > 20
