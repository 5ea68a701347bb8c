"""Images of a prompt in the app: the files beside it, one sign for a run of image tokens, and the picture by layer."""

from dataclasses import replace

import numpy as np
import pytest
from app_pages import HOSTILE, first_page, script_of
from image_traces import COLUMNS, ROWS, image_trace

from moeviz.charts.images import kinds_in_words, patch_panels
from moeviz.errors import MissingField
from moeviz.metrics.findings import findings
from moeviz.metrics.images import image_views, patches, shares_of_kinds
from moeviz.testing import sample_trace
from moeviz_app.jobs.run_request import RunRequest, run_from_query
from moeviz_app.widgets.components.explorer import packed_strip


def test_patches_and_shares_are_those_of_the_trace():
    trace = image_trace()
    found = patches(trace)
    assert len(found) == ROWS * COLUMNS * len(trace.experts) and image_views(trace, 1) == []
    for row in found.itertuples():
        assert row.expert == trace.experts[row.layer, row.token, 0]
        assert row.weight == trace.weights[row.layer, row.token, 0]
    shares = shares_of_kinds(trace)
    kind = trace.tokens["kind"].to_numpy()
    for row in shares.itertuples():
        has = (trace.experts[row.layer] == row.expert).any(axis=-1)
        assert (row.image, row.text) == (has[kind == "image"].mean(), has[kind == "text"].mean())
    words = kinds_in_words(shares[shares["layer"] == 0])
    assert "the same share" in kinds_in_words(shares[shares["layer"] == 0].assign(image=0.25, text=0.25))
    most = (shares["image"] - shares["text"])[shares["layer"] == 0].abs().idxmax()
    assert f"expert {shares['expert'][most]} " in words and f"{shares['image'][most]:.0%}" in words


def test_traces_without_image_tokens_or_boxes_have_no_picture():
    for ask in (lambda: shares_of_kinds(sample_trace()), lambda: patches(image_trace(), 1)):
        with pytest.raises(MissingField):
            ask()


@pytest.mark.parametrize("picture", ["", "data:image/jpeg;base64,AA=="])
def test_a_panel_for_each_layer_has_each_patch_in_the_colour_of_its_expert(picture):
    trace = image_trace()
    drawn = patch_panels(patches(trace), (40, 30), 8, picture, underneath=bool(picture)).to_dict()
    rows = next(rows for rows in drawn["datasets"].values() if "panel" in rows[0])
    panels = {row["panel"] for row in rows}
    assert panels == {f"layer {layer}" for layer in range(4)} | ({"picture"} if picture else set())
    assert len(rows) == ROWS * COLUMNS * len(panels)
    colours = {(row["panel"], row["expert"]): row["colour"] for row in rows}
    of_layer = [colour for (panel, _), colour in colours.items() if panel == "layer 0"]
    assert len(set(of_layer)) == len(of_layer)
    assert all(row["fill"] == 0 for row in rows if row["panel"] == "picture")


def test_one_sign_stands_for_a_run_of_image_tokens():
    data = packed_strip(image_trace())
    assert data["signs"] == {0: "▦ 12 image tokens", 15: "▦ 1 image token"} and data["folded"] == [*range(1, 14)]
    assert packed_strip(sample_trace())["signs"] == {}


@pytest.mark.parametrize("layers", [4, 30])
def test_the_first_page_says_what_became_of_an_image(layers):
    trace = image_trace(note=HOSTILE[0], layers=layers)
    page = first_page(trace).run()
    texts = [element.value for element in page.text]
    assert not page.exception
    assert f"40 × 30 pixels became 12 image tokens. It is {HOSTILE[0]}." in texts
    layer = trace.model.layers[np.argsort(trace.model.layers)[0]]
    assert any(text.startswith("Layer ") and "image tokens" in text for text in texts), layer


def test_the_words_of_a_picture_are_nowhere_taken_for_written_ones():
    trace = image_trace()
    trace.tokens.loc[trace.tokens["kind"] == "image", "text"] = "<pad>"
    trace.tokens.loc[trace.tokens["kind"] == "text", "text"] = " word"
    written = (trace.tokens["kind"] == "text") & (trace.tokens["phase"] == "prompt")
    assert first_page(trace).run().session_state["prompt"] == " word" * int(written.sum())
    trace.experts[0] = [0, 1]
    trace.experts[0, 1:13] = [2, 3]
    said = [one.sentence for one in findings(trace)]
    assert any("from “image token” to “image token”" in one for one in said), said
    assert not any("<pad>" in one for one in said)


def test_a_run_with_images_is_in_no_address():
    run = RunRequest("See here.", "some/model", images=("0" * 64,))
    assert not run.fits_an_address and "0" * 64 not in str(run.parameters())
    assert run_from_query(run.parameters()).parameters() != run.parameters()  # nobody takes it for one without them
    assert replace(run, images=()).fits_an_address


def _choosing():
    from io import BytesIO

    import streamlit as st
    from PIL import Image

    from moeviz_app.session.visit import visit
    from moeviz_app.views import images

    def file(colour):
        Image.new("RGB", (8, 6), colour).save(data := BytesIO(), "PNG")
        return data

    images.model_catalog.takes_images = lambda name: name == "sees"
    images.model_catalog.image_sizes = lambda name, read: (
        f"{name}: {[(one.facts.width, one.facts.height) for one in read]}"
    )
    images.torch_is_here = lambda: True
    for turn in range(4):
        images.st.file_uploader = lambda *_a, turn=turn, **_k: [file((turn, n, 0)) for n in range(6)]
        chosen = images.choose_images("sees", known=True)
    st.text(" ".join(chosen))
    st.text(str(len(visit().images)))
    st.text(str(images.choose_images("reads text", known=True)))


def test_images_are_offered_where_the_model_takes_them_and_stay_in_the_visit(monkeypatch):
    import streamlit as st

    from moeviz_app.views import images

    catalog = images.model_catalog
    for home, name in (
        *((catalog, name) for name in ("takes_images", "image_sizes")),
        (images, "torch_is_here"),
        (st, "file_uploader"),
    ):
        monkeypatch.setattr(home, name, getattr(home, name))  # restored after the script has replaced them
    page = script_of(_choosing).run()
    assert not page.exception
    *_, tokens, chosen, kept, none = (element.value for element in page.text)
    assert tokens == f"sees: {[(8, 6)] * 4}" and len({*chosen.split()}) == 4
    assert (kept, none) == ("8", "()")
