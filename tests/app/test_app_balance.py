"""The page Balance: of a trace, of counts, of published ones; and the upload that asks for what a file does not say."""

from dataclasses import replace
from math import comb

import numpy as np
import pytest
from app_pages import (
    SECONDS,
    look_at,
    opened,
    pictures,
    sentences,
    taken_by,
    topic_page,
    traces_page,
    visit_of,
)
from importer_files import FOLDER
from streamlit.testing.v1 import AppTest

from moeviz.embedded.recorded_routing import example_trace
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.counts_file import to_counts_json
from moeviz.metrics.balance import balance_sentence, load_beside_luck, luck_band, luck_sentence
from moeviz.metrics.captions import times_said
from moeviz.model_info import ModelInfo
from moeviz.published import CHECKPOINTS, MODELS, published_counts
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace
from moeviz_app.session import session
from moeviz_app.session.library import SessionLibrary
from moeviz_app.views.balance import BESIDE, FILES, KINDS


def balance_page(trace: RoutingTrace | None = None, counts: SessionLibrary | None = None, subject: str | None = None):
    def script() -> None:
        from moeviz_app.views.balance import balance_page

        balance_page()

    app = AppTest.from_function(script, default_timeout=SECONDS)
    if counts is not None:
        visit_of(app).counts = counts
    visit_of(app).subject = subject
    return opened(app, trace, taken_by("balance_page"))


def upload(name: str, data: bytes | None = None, **told: int):
    """The page Files with a file of other programs, and what is asked filled in."""
    app = traces_page()
    app.file_uploader(key=session.UPLOAD).upload(name, data or (FOLDER / name).read_bytes(), "text/plain").run()
    return filled(app, **told) if told else app


def filled(app, **told: int | str):
    for field, value in told.items():
        boxes = [*app.number_input, *app.text_input, *app.selectbox]
        (box,) = (box for box in boxes if (box.key or "").startswith(f"told {field} "))
        box.set_value(value)
    (button,) = (button for button in app.button if button.label == "Open")
    return button.click().run()


def answer(counts) -> str:
    return balance_sentence(load_beside_luck(counts))


def parts(app) -> list[str]:
    """The parts that are folded under the answer."""
    (group,) = (group for group in app.button_group if group.key == session.COUNTED_PART)
    return [option.content for option in group.proto.options]


@pytest.mark.parametrize("model", MODELS)
def test_published_counts_are_there_on_the_first_day_with_source_and_licence(model):
    app = balance_page(subject=model.lower())
    assert not app.exception and pictures(app) == 1
    counts = published_counts(model)
    assert answer(counts) in sentences(app) and luck_sentence(load_beside_luck(counts)) in sentences(app)
    assert "by the authors of OLMoE (allenai/OLMoE, Apache-2.0)" in sentences(app)
    assert "Counts do not say which token went where." in sentences(app)
    assert f"moeviz trace - --model {CHECKPOINTS[model]} -o trace.npz < text.txt" in sentences(app)
    assert parts(app) == [KINDS, FILES]
    found = {}
    for part in (KINDS, FILES):
        app.session_state[session.COUNTED_PART] = part
        assert not app.run().exception
        found[part] = pictures(app) - 1
    assert found == {KINDS: 1, FILES: 0}
    assert pictures(topic_page("Load", subject=model.lower())) == 5, "on the tab Load"


def test_of_the_example_it_is_said_what_the_busiest_expert_has_of_other_texts():
    app = balance_page(subject="mixed")
    claim = balance_sentence(load_beside_luck(example_trace()))
    assert claim in sentences(app) and claim["most"][1:3] == (1, 7) and "9,654" in sentences(app)


def test_what_published_counts_say_is_in_the_words_of_the_kinds_of_text():
    """Luck leaves an expert within a hundredth of its share in 208,896 tokens."""
    claim = answer(published_counts("Mixtral-8x7B"))
    ends = [("code", 15, 5, pytest.approx(1.3, abs=0.05)), ("books", 15, 3, pytest.approx(0.4, abs=0.05))]
    assert claim["degree"] == "Not quite" and [claim["most"], claim["least"]] == ends
    sums = answer(published_counts("OLMoE-1B-7B"))
    assert sums["degree"] == "No" and sums["most"] == ("code", 7, 17, pytest.approx(6.2, abs=0.05))


def test_the_first_visitor_sees_published_counts_and_whoever_ran_a_prompt_their_own():
    assert answer(published_counts("Mixtral-8x7B")) in sentences(balance_page())
    trace = sample_trace(tokens=64)
    app = balance_page(trace)
    assert answer(trace) in sentences(app)
    assert "This is what these texts did, and not what the model does" in sentences(app)
    look_at(app, "embedded")
    assert "not what the model does" not in sentences(app), "of 9,654 tokens"
    (box,) = (box for box in app.selectbox if box.key == session.GROUP)
    assert len(box.options) == 16
    box.set_value(1).run()
    assert not app.exception and pictures(app) == 1


@pytest.mark.parametrize(
    "odd",
    [
        sample_trace(tokens=1),
        sample_trace(tokens=20, experts=2, top_k=2),
        sample_trace(tokens=40).select(tokens=slice(0, 0)),
        sample_trace(layers=1, tokens=8, experts=6144, top_k=8),
    ],
    ids=["one token", "all experts", "no tokens", "6,144 experts"],
)
def test_odd_traces_have_an_answer_and_a_picture(odd):
    app = balance_page(odd)
    assert not app.exception and pictures(app) == 1 and "nan" not in sentences(app)
    (chart,) = app.get("vega_lite_chart")
    assert len(str(chart.proto)) < 3_000_000


def test_counts_of_numbers_that_no_memory_holds_are_judged():
    """By the normal distribution: the binomial of 10^18 tokens would be a table of a billion cells."""
    info = ModelInfo("m", "file", (0,), (4,), 1)
    counts = ExpertCounts(info, np.array([[[10**18, 1, 0, 10**9]]]), np.array([[2 * 10**18]]))
    assert answer(counts) == ("No: expert 0 of layer 0 has 4.0 times its share; expert 2 of layer 0 has no token.")


def test_luck_is_between_the_tails_of_the_binomial():
    for tokens, chance, rare in ((1, 0.5, 0.05), (52, 0.25, 0.001), (300, 2 / 64, 0.001 / 64), (900, 0.125, 1e-5)):
        low, high = luck_band(tokens, chance, rare)
        exact = [comb(tokens, n) * chance**n * (1 - chance) ** (tokens - n) for n in range(min(tokens, 1000) + 1)]
        assert sum(exact[:low]) <= rare / 2 < sum(exact[: low + 1])
        assert sum(exact[high + 1 :]) <= rare / 2 < sum(exact[high:])
    near, sure = luck_band(4 * 10**6, 0.25, 1e-4), luck_band(10**7, 0.25, 1e-4)
    assert abs((sure[1] - sure[0]) / (near[1] - near[0]) - (10 / 4) ** 0.5) < 0.01, "where the normal takes over"
    assert [times_said(times) for times in (0.0, 1.0, 0.999)] == ["0", "1.0", "0.999"]


def test_of_random_choices_nearly_none_is_beyond_luck_and_of_a_favoured_expert_all():
    rng, beyond = np.random.default_rng(0), 0
    for _ in range(200):
        chosen = rng.random((4, 200, 16)).argsort(axis=-1)[..., :2].astype(np.int16)
        trace = replace(sample_trace(layers=4, tokens=200, experts=16), experts=chosen, weights=None, logits=None)
        beyond += load_beside_luck(trace)["beyond_luck"].any()
    assert beyond <= 2, "one table in a thousand"
    chosen[..., 0] = 3
    found = load_beside_luck(replace(trace, experts=chosen))
    assert found.loc[found["expert"] == 3, "beyond_luck"].all()


def test_where_the_sum_hides_it_the_sentence_says_so():
    info = ModelInfo("m", "file", (0,), (2,), 1)
    counts = ExpertCounts(info, np.array([[[900, 100]], [[100, 900]]]), np.full((2, 1), 1000), ("a", "b"), "label")
    assert [*answer(counts).values.values()] == ["Not quite", ("a", 0, 0, 1.8), ("a", 0, 1, 0.2), 0, 1]
    wide = ExpertCounts(
        replace(info, num_experts=(4,)),
        np.array([[[1000, 0, 0, 0]], [[0, 1000, 0, 0]], [[0, 0, 1000, 1000]]]),
        np.array([[1000], [1000], [2000]]),
        ("a", "b", "c"),
        "label",
    )
    assert [*answer(wide).values.values()] == ["No", ("a", 0, 0, 4), ("a", 0, 1, 0), 8, 1]


def test_a_part_of_the_counts_is_judged_alone():
    app = balance_page()
    (box,) = (box for box in app.selectbox if box.key == session.GROUP)
    assert box.options == ["all together", "code", "web", "books"]
    box.set_value(1).run()
    counts = published_counts(MODELS[0])
    assert answer(counts.of_group(0)) in sentences(app) and answer(counts) not in sentences(app)


def test_an_upload_is_asked_for_just_what_it_does_not_say_and_read_again():
    app = upload("imatrix.gguf")
    assert [box.label for box in app.number_input] == ["Experts that a token is sent to (top-k)"] and not app.success
    assert "'imatrix.gguf' does not say how many experts a token is sent to." in sentences(app)
    app = filled(app, top_k=2)
    assert not app.exception and "It holds counts" in app.success[0].value
    assert "Read as llama.cpp importance matrices. Nothing implausible was found." in sentences(app)
    (counts,) = visit_of(app).counts.values()
    assert counts.model.top_k == 2 and visit_of(app).subject.startswith("counts from imatrix.gguf")


def test_of_several_things_each_is_asked_for_and_what_is_missing_or_wrong_is_said():
    app = upload("sglang_generate.json")
    assert {box.key.split()[1] for box in app.number_input} == {"hidden_layers", "top_k"}
    app = filled(app, top_k=2)
    assert "Still to be filled in: Layers of the model, dense ones too." in sentences(app)
    app = filled(app, hidden_layers=3)
    assert {box.key.split()[1] for box in app.number_input} == {"hidden_layers", "top_k", "start"}
    app = filled(app, hidden_layers=3)
    assert "Are --num-layers and --experts-per-token right?" in sentences(app) and not app.success
    app = filled(app, hidden_layers=5)
    assert "Opened." in app.success[0].value and visit_of(app).trace.experts.shape == (4, 13, 2)


def test_of_an_array_it_is_asked_which_axis_comes_first():
    app = upload("vllm_offline.npy")
    (box,) = (box for box in app.selectbox if (box.key or "").startswith("told first_axis "))
    assert box.options == ["layers", "tokens"] and box.value is None
    app = filled(app)
    assert "Still to be filled in: First axis of the array." in sentences(app)
    app = filled(app, first_axis="tokens")
    assert not app.exception and visit_of(app).trace.experts.shape == (4, 13, 2)


def test_layers_are_written_as_people_write_them():
    app = filled(upload("lmdeploy_generate.json"), moe_layers="1-")
    assert "The list of layers with experts is '1-'. Give numbers and ranges" in sentences(app)
    app = filled(app, moe_layers="1-4")
    assert visit_of(app).trace.model.layers == (1, 2, 3, 4)


def test_what_the_doctor_finds_is_shown_with_the_import_the_first_at_once():
    rows = [f"{layer},{expert},{5 + expert}" for layer in (1, 2, 3) for expert in range(4)]
    data = ("layer,expert,count\n" + "\n".join(rows) + "\n").encode()
    app = upload("a.csv", data, top_k=1)
    assert "Not everything in it is plausible:" in sentences(app)
    assert "Layers 1 and 2 have the same count for every expert" in sentences(app)
    assert [more.label for more in app.expander] == ["1 more"]


def test_counts_beside_a_trace_of_the_same_shape_are_compared():
    trace = sample_trace(tokens=64)
    other = sample_trace(tokens=64, seed=5).counts()
    app = upload("mine.json", to_counts_json(other))
    shelf, name = visit_of(app).counts, visit_of(app).subject
    app = balance_page(trace, counts=shelf, subject=name)
    assert not app.exception
    assert BESIDE in parts(app)
    app.session_state[session.COUNTED_PART] = BESIDE
    assert pictures(app.run()) == 3 and "The first is these counts, the second the trace." in sentences(app)
    alone = balance_page(sample_trace(layers=2), counts=shelf, subject=name)
    assert BESIDE not in parts(alone)


def test_counts_of_an_enormous_number_of_groups_are_drawn():
    info = ModelInfo("m", "file", (0,), (4,), 1)
    steps = tuple(range(1000))
    counts = ExpertCounts(info, np.ones((1000, 1, 4), int), np.full((1000, 1), 4), steps, "step")
    app = upload("steps.json", to_counts_json(counts))
    app = balance_page(None, counts=visit_of(app).counts, subject=visit_of(app).subject)
    assert not app.exception
    (box,) = (box for box in app.selectbox if box.key == session.GROUP)
    assert len(box.options) == 201
