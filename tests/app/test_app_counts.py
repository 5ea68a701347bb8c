"""The page of counts without tokens, and the upload that asks for what a file does not say."""

import numpy as np
import pytest
from app_pages import SAFE_ELEMENTS, SECONDS, opened, pictures, sentences, traces_page, visit_of
from importer_files import FOLDER
from moeviz_app.session import session
from moeviz_app.session.library import SessionLibrary
from streamlit.testing.v1 import AppTest

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.counts_file import to_counts_json
from moeviz.metrics.load import counts_summary, expert_load
from moeviz.model_info import ModelInfo
from moeviz.published import MODELS, published_counts
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace

HOSTILE = "![x](http://example.com/x.png) <img src=x onerror=alert(1)>"


def counts_page(trace: RoutingTrace | None = None, counts: SessionLibrary | None = None, **kept: object):
    def script() -> None:
        from moeviz_app.views.counts import counts_page

        counts_page()

    app = AppTest.from_function(script, default_timeout=SECONDS)
    if counts is not None:
        visit_of(app).counts = counts
    for key, value in kept.items():
        app.session_state[key] = value
    return opened(app, trace)


def upload(name: str, data: bytes | None = None, **told: int):
    """The Traces page with a file of other programs, and what is asked filled in."""
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


def answer(counts: ExpertCounts) -> str:
    return counts_summary(expert_load(counts.counts()))


@pytest.mark.parametrize("model", MODELS)
def test_published_counts_are_there_on_the_first_day_with_source_and_licence(model):
    app = counts_page(chosen_counts=f"{model} (published)")
    assert not app.exception and pictures(app) == 6
    assert answer(published_counts(model)) in sentences(app)
    assert "by the authors of OLMoE (allenai/OLMoE, Apache-2.0)" in sentences(app)
    assert "Counts do not say which token went where." in sentences(app)


def test_a_part_of_the_counts_is_judged_alone():
    app = counts_page()
    (box,) = (box for box in app.selectbox if box.key == session.GROUP)
    assert box.options == ["all together", "github", "c4", "book"]
    box.set_value(1).run()
    counts = published_counts(MODELS[0])
    assert answer(counts.of_group(0)) in sentences(app) and answer(counts) not in sentences(app)


def test_the_sentence_names_the_busiest_and_those_without_tokens():
    info = ModelInfo("m", "file", (1, 4), (4, 4), 1)
    counts = ExpertCounts(info, np.array([[[6, 2, 0, 0], [3, 3, 2, 0]]]), np.array([[8, 8]]))
    assert answer(counts) == (
        "The busiest is expert 0 of layer 1, with 75% of the layer's assignments, 3.0× a uniform share. Of 8 experts, "
        "3 got no token, most of them in layer 1: 2."
    )
    assert answer(counts.select([4])).endswith("Of 4 experts, 1 got no token, in layer 4.")
    assert "Every one of the 2 experts got some tokens; expert 1" in answer(
        ExpertCounts(ModelInfo("m", "file", (0,), (2,), 1), np.array([[[5, 3]]]), np.array([[8]]))
    )
    assert answer(ExpertCounts(info, np.zeros((1, 2, 4), int), np.zeros((1, 2), int))).startswith("No token was")


def test_an_upload_is_asked_for_just_what_it_does_not_say_and_read_again():
    app = upload("imatrix.gguf")
    assert [box.label for box in app.number_input] == ["Experts that a token is sent to (top-k)"] and not app.success
    assert "'imatrix.gguf' does not say how many experts a token is sent to." in sentences(app)
    app = filled(app, top_k=2)
    assert not app.exception and "It holds counts" in app.success[0].value
    assert "Read as llama.cpp importance matrices. The doctor found nothing implausible." in sentences(app)
    (counts,) = visit_of(app).counts.values()
    assert counts.model.top_k == 2 and app.session_state[session.COUNTS].startswith("from imatrix.gguf")


def test_of_several_things_each_is_asked_for_and_what_is_missing_or_wrong_is_said():
    app = upload("sglang_generate.json")
    assert {box.key.split()[1] for box in app.number_input} == {"hidden_layers", "top_k"}
    app = filled(app, top_k=2)
    assert "Still to be filled in: Layers of the model, dense ones too." in sentences(app)
    app = filled(app, hidden_layers=3)
    assert {box.key.split()[1] for box in app.number_input} == {"hidden_layers", "top_k", "start"}
    app = filled(app, hidden_layers=3)
    assert "Are --hidden-layers and --top-k right?" in sentences(app) and not app.success
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
    assert "The doctor found what is not plausible:" in sentences(app)
    assert "Layers 1 and 2 have the same count for every expert" in sentences(app)
    assert [more.label for more in app.expander] == ["1 more"]


def test_counts_beside_a_trace_of_the_same_shape_are_compared():
    trace = sample_trace(tokens=64)
    other = sample_trace(tokens=64, seed=5).counts()
    app = upload("mine.json", to_counts_json(other))
    shelf, name = visit_of(app).counts, app.session_state[session.COUNTS]
    app = counts_page(trace, counts=shelf, chosen_counts=name)
    assert not app.exception
    assert "Beside the trace on screen" in [heading.value for heading in app.subheader]
    alone = counts_page(sample_trace(layers=2), counts=shelf, chosen_counts=name)
    assert "Beside the trace on screen" not in [heading.value for heading in alone.subheader]


def test_hostile_names_and_labels_stay_text():
    info = ModelInfo(HOSTILE, HOSTILE, (0, 1), (4, 4), 1, caution=HOSTILE)
    counts = ExpertCounts(info, np.ones((2, 2, 4), int), np.full((2, 2), 4), (HOSTILE, "b"), "label")
    app = upload("hostile.json", to_counts_json(counts))
    app = counts_page(None, counts=visit_of(app).counts, chosen_counts=app.session_state[session.COUNTS])
    assert not app.exception and f"Caution: {HOSTILE}" in sentences(app)
    unsafe = [node for node in app if hasattr(node, "proto") and node.type not in {*SAFE_ELEMENTS, "selectbox"}]
    assert not [node for node in unsafe if "example.com" in str(node.proto)]


def test_counts_of_an_enormous_number_of_groups_are_drawn():
    info = ModelInfo("m", "file", (0,), (4,), 1)
    steps = tuple(range(1000))
    counts = ExpertCounts(info, np.ones((1000, 1, 4), int), np.full((1000, 1), 4), steps, "step")
    app = upload("steps.json", to_counts_json(counts))
    app = counts_page(None, counts=visit_of(app).counts, chosen_counts=app.session_state[session.COUNTS])
    assert not app.exception
    (box,) = (box for box in app.selectbox if box.key == session.GROUP)
    assert len(box.options) == 201
