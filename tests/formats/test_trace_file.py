"""The .npz trace file: every bit comes back, and a hostile file gives one sentence."""

import io
import json
import pickle
import zipfile
from base64 import b64decode, b64encode
from dataclasses import replace

import numpy as np
import pytest
from npz_files import members_of, npy_header, npz

from moeviz.errors import InvalidTrace
from moeviz.expert_outputs import FIGURES, ExpertOutputs
from moeviz.formats import trace_file
from moeviz.formats.trace_file import from_trace_file, to_trace_file
from moeviz.next_tokens import NEXT, NextTokens


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.fixture
def members(trace) -> dict[str, bytes]:
    return members_of(to_trace_file(trace))


def changed(members: dict[str, bytes], edit) -> bytes:
    """The file again, with its JSON header changed by a function."""
    header = json.loads(bytes(np.load(io.BytesIO(members["header.npy"]))))
    edit(header)
    return npz(members | {"header.npy": npy(np.frombuffer(json.dumps(header).encode(), np.uint8))})


@pytest.fixture
def with_header(members):
    return lambda edit: changed(members, edit)


def test_numpy_alone_reads_a_trace_file_and_what_it_saves_opens_too(trace):
    arrays = np.load(io.BytesIO(to_trace_file(trace)), allow_pickle=False)
    assert np.array_equal(arrays["experts"], trace.experts)
    assert np.array_equal(arrays["weights"], trace.weights)
    assert json.loads(bytes(arrays["header"]))["tokens"]["text"] == trace.tokens["text"].tolist()
    np.savez(buffer := io.BytesIO(), **arrays)
    assert from_trace_file(buffer.getvalue()).equals(trace)


def test_the_same_trace_gives_the_same_bytes(trace):
    assert to_trace_file(trace) == to_trace_file(trace)


def test_arrays_that_come_back_can_be_written_to(trace):
    read = from_trace_file(to_trace_file(trace))
    assert read.experts.flags.writeable and read.weights.flags.writeable and read.logits.flags.writeable


@pytest.mark.parametrize("data", [b"", b"PK", b"layer,expert\n0,1\n", b"\x93NUMPY\x01\x00"])
def test_something_that_is_no_zip_is_refused(data):
    with pytest.raises(InvalidTrace, match="npz"):
        from_trace_file(data)


@pytest.mark.parametrize("missing", ["header.npy", "experts.npy"])
def test_a_missing_array_is_named_by_what_should_be_there(members, missing):
    del members[missing]
    with pytest.raises(InvalidTrace, match=r"holds header\.npy, experts\.npy"):
        from_trace_file(npz(members))


@pytest.mark.parametrize("name", ["code.py", "experts", "../experts.npy", "Experts.npy"])
def test_a_member_that_we_do_not_know_is_refused(members, name):
    with pytest.raises(InvalidTrace, match="holds"):
        from_trace_file(npz(members | {name: b""}))


def test_the_same_member_twice_is_refused(members):
    buffer = io.BytesIO(npz(members))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("experts.npy", members["experts.npy"])
    with pytest.raises(InvalidTrace, match="holds"):
        from_trace_file(buffer.getvalue())


def test_pickled_objects_are_refused_and_never_loaded(members):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("the pickle was loaded",)

    content = npy_header("|O", (1,)) + pickle.dumps(Bomb())
    with pytest.raises(InvalidTrace, match=r"type \|O"):
        from_trace_file(npz(members | {"experts.npy": content}))


@pytest.mark.parametrize("dtype", ["<i4", "<i8", "<f4", ">i2", "|b1"])
def test_ids_of_another_dtype_are_refused(trace, members, dtype):
    with pytest.raises(InvalidTrace, match="<i2"):
        from_trace_file(npz(members | {"experts.npy": npy(trace.experts.astype(dtype))}))


def test_arrays_in_fortran_order_are_refused(trace, members):
    content = npy(np.asfortranarray(trace.experts))
    with pytest.raises(InvalidTrace, match="numpy"):
        from_trace_file(npz(members | {"experts.npy": content}))


def test_an_array_of_another_shape_is_refused(trace, members):
    with pytest.raises(InvalidTrace, match="header"):
        from_trace_file(npz(members | {"weights.npy": npy(trace.weights[:, :-1])}))


def test_an_id_out_of_range_is_refused(trace, members):
    trace.experts[1, 2, 0] = 8
    with pytest.raises(InvalidTrace, match=r"expert 8.*layer 1.*token 2"):
        from_trace_file(npz(members | {"experts.npy": npy(trace.experts)}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(trace, members, value):
    trace.weights[0, 0, 0] = value
    with pytest.raises(InvalidTrace, match="NaN"):
        from_trace_file(npz(members | {"weights.npy": npy(trace.weights)}))


def test_a_zip_bomb_is_refused_by_what_it_declares(members):
    bomb = npz(members | {"experts.npy": npy_header("<i2", (1, 2**22, 2)) + bytes(2**24)})
    assert len(bomb) < 2**16
    with pytest.raises(InvalidTrace, match="unpack"):
        from_trace_file(bomb, max_bytes=2**20)


def test_a_header_too_large_for_json_is_refused(members):
    budget = 8 * len(members["header.npy"])
    assert sum(map(len, members.values())) < budget
    with pytest.raises(InvalidTrace, match="header"):
        from_trace_file(npz(members), budget)


def test_an_array_header_that_promises_more_than_the_member_holds_is_refused(with_header, members):
    def many_slots(header):
        header["model"]["top_k"] = 30_000

    members["experts.npy"] = npy_header("<i2", (4, 32, 30_000))
    members["weights.npy"] = npy_header("<f4", (4, 32, 30_000))
    with pytest.raises(InvalidTrace, match=r"experts\.npy"):
        from_trace_file(with_header(many_slots))


def test_an_encrypted_member_and_another_packing_are_refused(members):
    with pytest.raises(InvalidTrace, match="deflate"):
        from_trace_file(npz(members, zipfile.ZIP_BZIP2))


def test_a_file_larger_than_allowed_is_refused(trace):
    with pytest.raises(InvalidTrace, match="100"):
        from_trace_file(to_trace_file(trace), max_bytes=100)


@pytest.mark.parametrize("text", [b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": NaN}', b'"x"'])
def test_a_header_that_is_no_json_object_is_refused(members, text):
    content = npy(np.frombuffer(text, np.uint8))
    with pytest.raises(InvalidTrace, match="JSON"):
        from_trace_file(npz(members | {"header.npy": content}))


@pytest.mark.parametrize("version", ["moeviz trace", "trace v1", None, 1, ["moeviz trace v1"]])
def test_another_format_is_refused_by_name(with_header, version):
    with pytest.raises(InvalidTrace, match=r"'moeviz.*v2'.*PROMPT"):
        from_trace_file(with_header(lambda header: header.update(format=version)))


@pytest.mark.parametrize("version", ["moeviz trace v3", "moeviz trace v27"])
def test_a_file_of_a_later_version_asks_for_an_update(with_header, version):
    with pytest.raises(InvalidTrace, match=f"'{version}'.* 'moeviz trace v2'"):
        from_trace_file(with_header(lambda header: header.update(format=version)))


WRONG_FACTS = {
    "layers": [
        "0123",
        [0, 1, 2, "3"],
        [0, 1, 2],
        [3, 2, 1, 0],
        [0, 0, 1, 2],
        [0, 1, 2, 2**31],
        [],
        None,
        [0, 1, 2, 3.0],
    ],
    "num_experts": [[8, 8, 8, 0], [8, 8, 8, 2**15], [8, 8, 8, True], 8, [8, 8, 8, -8], [[8], 8, 8, 8]],
    "top_k": [True, "2", 2.0, 3, 0, -1, 10**30, None],
    "name": [None, 7, "x" * 5000, "\ud800", ["x"]],
    "backend": [None, 7],
    "score_function": ["hardmax", None, ["softmax"]],
    "num_layers": [True, "4", -1, 10**30],
    "dtype": [32, []],
    "parameters": [[], 7, {}, {"input_embedding": 1}],
    "colour": ["red"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG_FACTS.items() for value in values])
def test_a_wrong_fact_about_the_model_is_refused(with_header, name, value):
    with pytest.raises(InvalidTrace):
        from_trace_file(with_header(lambda header: header["model"].update({name: value})))


@pytest.mark.parametrize("name", ["name", "backend", "layers", "num_experts", "top_k"])
def test_a_fact_that_is_missing_is_named(with_header, name):
    with pytest.raises(InvalidTrace, match=f"'{name}'"):
        from_trace_file(with_header(lambda header: header["model"].pop(name)))


WRONG_TOKENS = {
    "sequence": [-1, 2**31, 0.0, True, "0", None],
    "position": [1, -1],
    "token_id": [-2, 2**31],
    "text": [None, 7, "\udfff", ["x"]],
    "phase": ["thinking", None, 0, ["prompt"]],
    "label": [None, 1],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_TOKENS.items() for value in values]
)
def test_a_wrong_fact_about_a_token_is_refused_with_its_row(with_header, name, value):
    def spoil(header):
        header["tokens"].setdefault("label", ["a"] * 32)
        header["tokens"][name][7] = value

    with pytest.raises(InvalidTrace, match=f"7 .*{name}|position"):
        from_trace_file(with_header(spoil))


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: header.pop("tokens"),
        lambda header: header.update(tokens=[]),
        lambda header: header["tokens"].pop("text"),
        lambda header: header["tokens"]["text"].pop(),
        lambda header: header["tokens"].update(position=7),
        lambda header: header["tokens"].update(colour=["red"] * 32),
    ],
)
def test_tokens_that_are_not_lists_of_one_length_are_refused(with_header, edit):
    with pytest.raises(InvalidTrace, match=r"tokens"):
        from_trace_file(with_header(edit))


@pytest.fixture
def predicted(trace):
    """A trace with made-up next tokens: hostile texts, and a lens."""
    rng = np.random.default_rng(3)
    L, T = trace.experts.shape[:2]
    texts = ("", "\n", "=1+1", "<script>", "‮x", "é", "\x00")

    def rows(*shape):
        p = -np.sort(-rng.random((*shape, NEXT)), axis=-1) / NEXT
        return rng.integers(0, len(texts), p.shape, dtype=np.int32), p.astype(np.float32)

    return replace(trace, next_tokens=NextTokens(texts, *rows(T), *rows(L, T)))


def test_next_tokens_come_back_to_the_last_bit_with_or_without_a_lens(trace, predicted):
    without = replace(predicted, next_tokens=replace(predicted.next_tokens, lens_rows=None, lens_p=None))
    for one in (trace, predicted, without):
        assert from_trace_file(to_trace_file(one)).equals(one)
    assert not predicted.equals(trace) and not predicted.equals(without)


def spoil_next(**changes):
    return lambda header: header["next_tokens"].update(changes)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda header: header.update(next_tokens=[]), "they must have texts, rows"),
        (lambda header: header["next_tokens"].pop("p"), "they must have texts, rows"),
        (spoil_next(colour="red"), "they must have texts, rows"),
        (spoil_next(texts="abc"), "not a list of texts"),
        (spoil_next(texts=["a", None]), "not a list of texts"),
        (spoil_next(texts=["\ud800"] * 7), "not a list of texts"),
        (spoil_next(texts=["a"]), "rows without a text"),
        (spoil_next(rows=None), "not the bytes of an array"),
        (spoil_next(rows="AAAA"), "not the bytes of an array"),
        (spoil_next(p=7), "not the bytes of an array"),
        (spoil_next(lens_p=None), "rows and probabilities; got one"),
        (lambda header: header["next_tokens"].update(p=header["next_tokens"]["p"][:-4] + "AAAA"), "not the bytes"),
        (lambda header: header["next_tokens"].update(p="!" * len(header["next_tokens"]["p"])), "not the bytes"),
        (lambda header: header["next_tokens"].update(p=packed(header, np.nan)), "must be from 0 to 1"),
        (lambda header: header["next_tokens"].update(p=packed(header, 1.5)), "must be from 0 to 1"),
        (lambda header: header["next_tokens"].update(p=packed(header, -0.5)), "must be from 0 to 1"),
        (lambda header: header["next_tokens"].update(p=packed(header, 0.9, at=3)), "the highest first"),
        (lambda header: header["next_tokens"].update(rows=packed(header, -1, "<i4")), "rows without a text"),
        (lambda header: header["next_tokens"].update(rows=packed(header, 7, "<i4")), "rows without a text"),
    ],
)
def test_damaged_next_tokens_are_refused_in_a_sentence(predicted, edit, says):
    with pytest.raises(InvalidTrace, match=says):
        from_trace_file(changed(members_of(to_trace_file(predicted)), edit))


def packed(header, value, dtype="<f4", at=0) -> str:
    """One of the arrays with another value in its first row."""
    name = "p" if dtype == "<f4" else "rows"
    values = np.frombuffer(b64decode(header["next_tokens"][name]), dtype).copy()
    values[at] = value
    return b64encode(values.tobytes()).decode()


def test_next_tokens_of_another_number_of_tokens_are_refused(predicted):
    with pytest.raises(InvalidTrace, match="shape"):
        replace(predicted, next_tokens=predicted.next_tokens.select(range(4), slice(1, None)))


@pytest.fixture
def put_out(trace):
    """A trace with made-up outputs of its experts."""
    rng = np.random.default_rng(4)
    arrays = {name: rng.random(trace.experts.shape, np.float32) for name in FIGURES}
    return replace(trace, outputs=ExpertOutputs(**arrays))


def test_experts_outputs_come_back_to_the_last_bit_with_or_without_the_residual_stream(trace, put_out):
    without = replace(put_out, outputs=replace(put_out.outputs, residual=None))
    for one in (put_out, without):
        assert from_trace_file(to_trace_file(one)).equals(one) and not one.equals(trace)
    assert not put_out.equals(without)


def other_figure(header, value, name="norm"):
    values = np.frombuffer(b64decode(header["outputs"][name]), "<f4").copy()
    values[0] = value
    header["outputs"][name] = b64encode(values.tobytes()).decode()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda header: header.update(outputs=[]), "they must have norm, added"),
        (lambda header: header["outputs"].pop("cosine"), "they must have norm, added"),
        (lambda header: header["outputs"].update(colour="red"), "they must have norm, added"),
        (lambda header: header["outputs"].update(norm="AAAA"), "not the bytes of an array"),
        (lambda header: header["outputs"].update(norm=None), "not the bytes of an array"),
        (lambda header: other_figure(header, np.nan), "is not a number somewhere"),
        (lambda header: other_figure(header, np.inf, "added"), "is not a number somewhere"),
        (lambda header: other_figure(header, -1), "which cannot be"),
        (lambda header: other_figure(header, 1.5, "residual"), "which cannot be"),
    ],
)
def test_damaged_outputs_of_experts_are_refused_in_a_sentence(put_out, edit, says):
    with pytest.raises(InvalidTrace, match=says):
        from_trace_file(changed(members_of(to_trace_file(put_out)), edit))


def test_more_outputs_than_any_reader_takes_are_not_written(put_out, monkeypatch):
    monkeypatch.setattr(trace_file, "MAX_BYTES", 16 * 2**10)
    with pytest.raises(InvalidTrace, match="JSON"):
        to_trace_file(put_out)
