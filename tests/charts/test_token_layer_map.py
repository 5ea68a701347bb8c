"""The map of token by layer: what stands where, by the scene that Vega makes of it, and by the pixels of its images."""

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert
from PIL import Image
from random_traces import random_trace

from moeviz import MoevizError, RoutingTrace
from moeviz.charts import theme
from moeviz.charts.overview import linked_overview
from moeviz.charts.token_layer_map import (
    BROUGHT,
    MOST_STRIPES,
    cells_of,
    facts_of,
    facts_of_trace,
    images_of,
    map_of,
    map_spec,
    token_layer_map,
)
from moeviz.charts.token_layer_marks import DIM, LINED, cell_images, row_height
from moeviz.metrics.overview import modal_first_choice
from moeviz.metrics.tokens import token_choices, visible
from moeviz.report.pictures import svg
from moeviz.report.plots import with_data_inside
from moeviz.testing import sample_trace

VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
WIDE = 600  # pixels, of all columns


def with_gaps(trace: RoutingTrace) -> RoutingTrace:
    """Token 1 got no expert; token 2 none at layer 0, and one at the others; token 3 is not recorded at layer 1."""
    experts, weights = trace.experts.copy(), None if trace.weights is None else trace.weights.copy()
    for where, what in ((np.s_[:, 1], -1), (np.s_[0, 2], -1), (np.s_[:, 2, 1:], -1), (np.s_[1, 3], -2)):
        experts[where] = what
        if weights is not None:
            weights[where] = 0
    return replace(trace, experts=experts, weights=weights, logits=None)


def unordered(trace: RoutingTrace) -> RoutingTrace:
    model = replace(trace.model, slot_order="unknown")
    return replace(trace, model=model, experts=trace.experts[..., ::-1].copy(), weights=None, logits=None)


def linked(trace: RoutingTrace) -> alt.LayerChart:
    frame = token_choices(trace)
    facts = facts_of(frame)
    return map_of(facts, cells_of(frame), images_of(frame, facts))


def scene(chart: alt.LayerChart, **signals) -> list[dict]:
    """The marks that Vega makes, as lists of items, where a page has set these signals."""
    spec = with_data_inside(chart).to_dict()
    assert signals.keys() <= {param["name"] for param in spec["params"]}
    for param in spec["params"]:
        if param["name"] in signals:
            param["value"] = signals[param["name"]]
    return list(_marks(vl_convert.vegalite_to_scenegraph(spec, vl_version=VERSION)["scenegraph"]))


def _marks(part: dict) -> Iterator[dict]:
    if part.get("marktype", "group") != "group":
        yield part
        return
    for item in part.get("items", ()):
        yield from _marks(item)


def stripes(chart: alt.LayerChart, **signals) -> pd.DataFrame:
    """The parts of cells: place of token and layer, expert's colour, top and height in cells, and opacity."""
    first = next(
        mark for mark in scene(chart, **signals) if mark["marktype"] == "rect" and mark["items"][0].get("fill")
    )
    tokens, layers = len(_param(chart, "names")), len(_param(chart, "layers"))
    rows = pd.DataFrame(first["items"])
    down = chart.height / layers
    return pd.DataFrame(
        {
            "token": (rows["x"] / (WIDE / tokens)).round().astype(int),
            "layer": np.floor(rows["y"] / down + 1e-6).astype(int),
            "colour": rows["fill"],
            "top": rows["y"] % down,
            "height": rows["height"],
            "opacity": rows["opacity"],
        }
    )


def _param(chart: alt.LayerChart, name: str):
    return next(param["value"] for param in chart.to_dict()["params"] if param["name"] == name)


def texts(chart: alt.LayerChart, role: str = "mark", **signals) -> list[str]:
    marks = [mark for mark in scene(chart, **signals) if mark["marktype"] == "text" and mark["role"] == role]
    return [str(item["text"]) for mark in marks for item in mark["items"]]


def test_facts_of_a_trace_are_those_of_its_choices():
    traces = [random_trace(seed) for seed in range(100)]
    recorded = [trace for trace in traces if not trace.tokens.empty and trace.recorded.any()]
    assert all(facts_of_trace(trace) == facts_of(token_choices(trace)) for trace in recorded) and len(recorded) > 50
    for trace in (sample_trace().select(tokens=slice(0, 0)), *(trace for trace in traces if trace not in recorded)):
        with pytest.raises(MoevizError):
            facts_of_trace(trace)


def test_each_expert_is_as_high_as_its_share_of_the_weight_and_a_cell_is_full():
    trace = sample_trace(tokens=12, layers=3)
    rows = stripes(linked(trace))
    whole = rows.groupby(["layer", "token"])["height"].sum()
    assert len(whole) == 36 and np.allclose(whole, row_height(3) - 1)  # a pixel is the gap
    share = trace.weights[..., 0] / trace.weights.sum(axis=-1)
    first = rows[rows["top"] < 1e-6].set_index(["layer", "token"]).sort_index()
    assert np.allclose(first["height"] / (row_height(3) - 1), share.ravel(), atol=1e-4)
    colours = facts_of(token_choices(trace)).colours
    assert first["colour"].tolist() == [colours[place][e] for place in range(3) for e in trace.experts[place, :, 0]]


def test_parts_are_equal_where_no_weight_is_known_or_none_is_above_zero():
    trace = sample_trace(tokens=4, layers=2)
    for weights in (None, np.zeros_like(trace.weights)):
        rows = stripes(linked(replace(trace, weights=weights, logits=None)))
        assert np.allclose(rows["height"], (row_height(2) - 1) / 2)


def test_a_choice_without_weight_beside_one_with_some_has_no_part():
    trace = sample_trace(tokens=2, layers=1)
    weights = np.array([[[0.5, 0.0], [0.5, -0.5]]], np.float32)
    rows = stripes(linked(replace(trace, weights=weights, logits=None))).sort_values(["token", "top"])
    assert np.allclose(rows["height"], [row_height(1) - 1, 0] * 2, atol=1e-3)


def test_where_no_order_is_known_all_are_drawn_equally_high_and_in_order_of_id():
    trace = unordered(sample_trace(tokens=6, layers=2, top_k=4))
    facts = facts_of(token_choices(trace))
    rows = stripes(linked(trace)).sort_values(["layer", "token", "top"])
    assert np.allclose(rows["height"], (row_height(2) - 1) / 4)
    wanted = [facts.colours[place][e] for place in range(2) for own in np.sort(trace.experts[place]) for e in own]
    assert rows["colour"].tolist() == wanted


def test_of_more_than_two_choices_the_first_alone_is_drawn_until_a_page_asks_for_all():
    trace = sample_trace(tokens=6, layers=2, top_k=4)
    assert len(stripes(linked(trace))) == 12
    assert len(stripes(linked(trace), split=1)) == 48
    assert len(stripes(linked(sample_trace(tokens=6, layers=2)))) == 24


def test_no_expert_is_a_hole_and_not_recorded_is_pale_and_whole():
    rows = stripes(linked(with_gaps(sample_trace(tokens=5, layers=2))))
    found = rows.groupby(["layer", "token"]).size().to_dict()
    assert found == {(0, 0): 2, (0, 3): 2, (0, 4): 2, (1, 0): 2, (1, 2): 1, (1, 3): 1, (1, 4): 2}
    pale = rows[rows["colour"] == theme.PALE]
    assert pale[["token", "layer"]].to_numpy().tolist() == [[3, 1]] and pale["height"].item() == row_height(2) - 1


def test_all_stripes_but_those_of_the_hot_expert_are_dim():
    trace = sample_trace(tokens=12, layers=3)
    expert = int(trace.experts[1, 4, 0])
    rows = stripes(linked(trace), hot=[1, expert])
    lit = rows[rows["opacity"] == 1]
    assert set(lit["token"]) == set(np.nonzero((trace.experts[1] == expert).any(axis=1))[0]) and set(lit["layer"]) == {
        1
    }
    assert set(rows["opacity"]) == {1, DIM}
    assert set(stripes(linked(trace))["opacity"]) == {1}


def test_ids_stand_where_they_fit():
    trace = sample_trace(tokens=12, layers=3)
    shown = texts(linked(replace(trace, weights=None, logits=None)))
    assert sorted(filter(str.isdigit, shown)) == sorted(map(str, trace.experts.ravel()))
    for thin in (sample_trace(tokens=12, layers=40), sample_trace(tokens=60, layers=3)):  # rows, and columns
        assert all(text.startswith("The router") for text in texts(linked(thin)))  # lines of the text alone


def test_tokens_are_named_by_their_texts_where_these_fit_and_else_the_chosen_one_alone():
    few, many = linked(sample_trace(tokens=8)), linked(sample_trace(tokens=200))
    names = [visible(text) for text in sample_trace(tokens=8).tokens["text"]]
    assert texts(few, "axis-label")[:8] == names
    positions = texts(many, "axis-label")
    assert positions[:3] == ["0", "12", "24"]
    assert "sends" not in " ".join(texts(many)) and "␣sends" in texts(many, token=2)
    assert "12" not in texts(many, "axis-label", token=12)


def test_lines_of_the_text_are_as_wide_as_their_tokens():
    trace = sample_trace(tokens=40, layers=2)
    words = ["<s>", *["ab", "⟨é 1/2⟩", "⟨é 2/2⟩", " c"] * 5, "\n", *["wide"] * 17, "\u202e"]
    trace = replace(trace, tokens=trace.tokens.assign(text=pd.Series(words, dtype="str")))
    assert [line["line"] for line in facts_of(token_choices(trace)).lines] == ["abé c" * 5, "wide" * 17 + "⟨U+202E⟩"]
    chart = linked(trace)
    marks = [mark for mark in scene(chart) if mark["marktype"] == "text" and mark["role"] == "mark"][-1]["items"]
    assert [item["x"] for item in marks] == pytest.approx([0, 22 * WIDE / 40])
    assert [item["limit"] for item in marks] == pytest.approx([22 * WIDE / 40 - 5, 18 * WIDE / 40 - 5])
    assert not facts_of(token_choices(sample_trace(tokens=LINED + 1, layers=1))).lines


def test_first_choices_that_changed_have_a_dot_in_their_cell():
    facts = facts_of(token_choices(sample_trace(tokens=12, layers=3)))
    spec = map_of(facts, BROUGHT).to_dict(validate=False)
    spec["datasets"] |= {"moved": [{"token": 4, "layer": 2}], "cells": []}
    drawn = _marks(vl_convert.vegalite_to_scenegraph(spec, vl_version=VERSION)["scenegraph"])
    dots = [mark["items"] for mark in drawn if mark["marktype"] == "symbol" and mark["role"] == "mark"]
    (dot,) = dots[0]
    assert 4 * WIDE / 12 < dot["x"] < 5 * WIDE / 12 and 2 * row_height(3) < dot["y"] < 3 * row_height(3)


def test_a_choice_has_two_frames_and_none_has_none():
    chart = linked(sample_trace(tokens=12, layers=3))
    for token, layer, seen in ((-1, -1, []), (4, -1, ["column"]), (4, 2, ["column", "cell"])):
        marks = [mark["items"][0] for mark in scene(chart, token=token, layer=layer) if mark["marktype"] == "rect"]
        frames = [item for item in marks if item.get("stroke") == theme.ACCENT and item["opacity"] == 1]
        assert len(frames) == len(seen)
        for item, what in zip(frames, seen, strict=True):
            assert item["x"] == pytest.approx(4 * WIDE / 12) and item["width"] == pytest.approx(WIDE / 12)
            assert item["height"] == pytest.approx(row_height(3) * (3 if what == "column" else 1))


def test_lines_stand_where_a_text_or_what_was_generated_begins():
    trace = sample_trace(tokens=12, layers=1)
    sequence = np.repeat([0, 1], 6).astype(np.int32)
    trace = replace(trace, tokens=trace.tokens.assign(sequence=sequence))
    assert facts_of(token_choices(trace)).beginnings == [6, 9]
    rules = [mark["items"] for mark in scene(linked(trace)) if mark["marktype"] == "rule"]
    lines = [items for items in rules if "opacity" not in items[0]]
    assert [[item["x"] for item in items] for items in lines] == [[300, 450]] * 2


# ---- images ----


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(url.partition(",")[2]))).convert("RGBA"))


def colour_of(pixel: np.ndarray) -> str:
    """As the theme writes it; empty where the pixel is transparent."""
    if not pixel[3]:
        return ""
    return "#" + bytes(pixel[: 3 if pixel[3] == 255 else 4].tolist()).hex()


SHAPES = {
    "top-2": sample_trace(tokens=9, layers=3),
    "with gaps": with_gaps(sample_trace(tokens=9, layers=3)),
    "ids alone": replace(with_gaps(sample_trace(tokens=9, layers=3)), weights=None),
    "no order": unordered(sample_trace(tokens=9, layers=3, top_k=4)),
    "64 experts, top-8": sample_trace(tokens=9, layers=3, experts=64, top_k=8),
    "one choice": sample_trace(tokens=9, layers=3, top_k=1),
}


def differences(trace: RoutingTrace, images: list[str], split: int) -> int:
    """How many points of cells have another colour in an image than in the marks; those at edges do not count."""
    chart, row = linked(trace), row_height(len(trace.model.layers))
    rows, image, wrong = stripes(chart, split=split), pixels(images[split if len(images) > 1 else 0]), 0
    assert image.shape[:2] == (row * len(trace.model.layers), len(trace.tokens))
    for layer, token in np.ndindex(trace.experts.shape[:2]):
        own = rows[(rows["layer"] == layer) & (rows["token"] == token)]
        for inside in range(row - 1):
            middle = inside + 0.5
            here = own[(own["top"] < middle - 0.02) & (middle + 0.02 < own["top"] + own["height"])]
            at_edge = here.empty and not own.empty
            expected = "".join(here["colour"].str.lower())
            wrong += not at_edge and colour_of(image[layer * row + inside, token]) != expected
    return wrong


@pytest.mark.parametrize("shape", SHAPES)
def test_images_have_the_colours_of_the_marks(shape):
    trace = SHAPES[shape]
    frame = token_choices(trace)
    images = cell_images(frame, facts_of(frame).colours, row_height(3))
    assert len(images) == (1 if shape in ("no order", "one choice") else 2)
    for split in range(2) if shape != "no order" else (1,):
        assert differences(trace, images, split) == 0


def test_an_image_of_another_trace_would_be_noticed():
    trace, other = SHAPES["top-2"], token_choices(sample_trace(tokens=9, layers=3, seed=5))
    assert differences(trace, cell_images(other, facts_of(other).colours, row_height(3)), 1) > 100


def test_past_so_many_stripes_the_cells_are_images_under_the_same_axes():
    few, many = sample_trace(tokens=250, layers=8), sample_trace(tokens=251, layers=8)
    assert MOST_STRIPES == 250 * 8 * 2 and not images_of(token_choices(few), facts_of(token_choices(few)))
    chart = map_of(facts_of(token_choices(many)), alt.NamedData("cells"), images_of(*_both(many)))
    assert len(images_of(*_both(many))) == 2
    kinds = [layer["mark"]["type"] for layer in chart.to_dict()["layer"]]
    assert kinds == ["image", "rect", "rule", "rule", "rect", "rect", "circle", "text"]
    drawn = [mark["items"] for mark in scene(token_layer_map(token_choices(many))) if mark["marktype"] == "image"]
    assert len(drawn[0]) == 1  # the one that is asked for


def _both(trace: RoutingTrace):
    frame = token_choices(trace)
    return frame, facts_of(frame)


def test_over_the_images_the_hot_expert_alone_has_marks():
    trace = sample_trace(tokens=251, layers=8)
    frame, facts = _both(trace)
    expert = int(trace.experts[3, 0, 0])
    cells = cells_of(frame)
    chart = map_of(facts, cells[cells["layer"] == 3], images_of(frame, facts))
    rows = stripes(chart, hot=[3, expert])
    assert set(rows["colour"]) == {facts.colours[3][expert]} and set(rows["opacity"]) == {1}
    assert len(rows) == (trace.experts[3] == expert).sum()
    (image,) = [mark["items"] for mark in scene(chart, hot=[3, expert]) if mark["marktype"] == "image"]
    assert image[0]["opacity"] == DIM


# ---- sizes, and pages ----


@pytest.mark.parametrize(
    "shape",
    [
        {"tokens": 1, "layers": 1},
        {"tokens": 30, "layers": 96},
        {"tokens": 256, "layers": 96, "experts": 512, "top_k": 8},
    ],
    ids=str,
)
def test_the_smallest_and_the_largest_are_drawn_and_no_spec_is_large(shape):
    trace = sample_trace(**shape)
    frame, facts = _both(trace)
    assert b"<svg" in svg(with_data_inside(token_layer_map(frame)))
    spec = map_of(facts, alt.NamedData("cells"), images_of(frame, facts)).to_dict()
    assert len(json.dumps(spec)) < 150_000
    assert spec["autosize"] == {"type": "none"} and spec["height"] == row_height(shape["layers"]) * shape["layers"]


def test_a_trace_without_tokens_says_so():
    with pytest.raises(MoevizError, match="tokens"):
        facts_of(token_choices(sample_trace().select(tokens=slice(0, 0))))


def test_a_page_without_a_legend_of_its_own_has_one_that_holds_for_every_layer():
    def named(trace: RoutingTrace) -> list[str]:
        return token_layer_map(token_choices(trace)).to_dict()["layer"][0]["encoding"]["fill"]["scale"]["domain"]

    assert named(sample_trace(tokens=4)) == [str(e) for e in range(8)]
    assert named(sample_trace(tokens=4, experts=64)) == [*(str(place) for place in range(1, 9)), "other"]
    assert named(with_gaps(sample_trace(tokens=4)))[-1] == theme.NOT_RECORDED
    mixed = sample_trace(tokens=4, layers=2, experts=64)
    mixed = replace(mixed, model=replace(mixed.model, num_experts=(8, 64)), experts=mixed.experts % 8, logits=None)
    assert named(mixed) == []


def test_a_tooltip_says_which_token_layer_and_expert_by_the_model_s_own_names():
    trace = sample_trace(tokens=4, layers=4).select(layers=[1, 3])
    rows = next(mark for mark in scene(linked(trace)) if mark["marktype"] == "rect")["items"]
    said = [row["description"].partition("; token: ")[2] for row in rows]
    expert, weight = trace.experts[1, 2, 0], trace.weights[1, 2, 0]
    assert f"␣sends; position: 2; phase: prompt; layer: 3; expert: {expert}; weight: {weight:.3f}" in said
    assert len(said) == 16 and not any("layer: 0" in words for words in said)
    assert "tooltip" not in json.dumps(map_of(*_bare(trace)).to_dict()["layer"][0]["encoding"])


def _bare(trace: RoutingTrace):
    return facts_of(token_choices(trace)), alt.NamedData("cells")


def test_an_overview_for_a_linked_page_marks_a_token_and_a_window():
    chart = linked_overview(modal_first_choice(sample_trace(tokens=300)))
    marks = scene(chart, **{"token": 150, "from": 99.5, "to": 199.5, "ink": "#abcdef"})
    (line,) = [mark["items"][0] for mark in marks if mark["marktype"] == "rule" and mark["role"] == "mark"]
    assert line["x"] == pytest.approx(301) and line["stroke"] == "#abcdef" and line["opacity"] == 1
    (frame,) = [item for mark in marks for item in mark["items"] if item.get("stroke") == theme.ACCENT]
    assert (frame["x"], frame["width"], frame["opacity"]) == (pytest.approx(200), pytest.approx(200), 1)
    labels = [item["fill"] for mark in marks if mark["role"] == "axis-label" for item in mark["items"]]
    assert set(labels) == {"#abcdef"}
    unmarked = scene(chart)
    assert [
        mark["items"][0]["opacity"] for mark in unmarked if mark["marktype"] == "rule" and mark["role"] == "mark"
    ] == [0]


def of_several_texts(trace: RoutingTrace) -> RoutingTrace:
    """The trace as texts of five tokens each, of which the last was generated."""
    at = np.arange(len(trace.tokens))
    phase = pd.Categorical(np.where(at % 5 == 4, "generated", "prompt"), dtype=trace.tokens["phase"].dtype)
    return replace(trace, tokens=trace.tokens.assign(sequence=(at // 5).astype(np.int32), phase=phase))


def facts_and_images(trace: RoutingTrace):
    frame, facts = _both(trace)
    return facts, images_of(frame, facts)


CHANGES = (lambda trace: trace, unordered, lambda trace: trace.select(layers=[1]), with_gaps, of_several_texts)


@pytest.mark.parametrize("tokens", [7, 107, 108, LINED + 1, 781])
@pytest.mark.parametrize("change", CHANGES)
def test_a_map_drawn_once_is_the_map_of_each_trace_of_as_many_layers_and_slots(tokens, change):
    facts, images = facts_and_images(change(sample_trace(tokens=tokens, layers=3)))
    assert map_spec(facts, images) == map_of(facts, BROUGHT, images).to_dict()


@pytest.mark.parametrize("size", [{"tokens": 1}, {"tokens": 60, "layers": 48, "experts": 128, "top_k": 8}])
def test_so_is_that_of_one_token_and_of_a_large_model(size):
    facts = facts_of(token_choices(replace(sample_trace(**size), weights=None, logits=None)))
    assert map_spec(facts) == map_of(facts, BROUGHT).to_dict()
