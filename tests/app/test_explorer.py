"""What the explorer's JavaScript is sent, and what is made of what a browser tells. No browser here."""

import json
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from explorer_traces import HOSTILE, KINDS, STAND_IN, made

from moeviz.errors import InvalidTrace
from moeviz.metrics.expert_names import BEATEN, UNNAMED
from moeviz.metrics.tokens import visible
from moeviz.routing_trace import NOT_RECORDED
from moeviz.testing import sample_trace
from moeviz_app.widgets.components import explorer as component
from moeviz_app.widgets.components.explorer import (
    MOST_SCORES,
    MOST_TOKENS,
    STEPS,
    packed,
    packed_names,
    packed_strip,
    vega_loader,
)


def array(text: str, kind: type) -> np.ndarray:
    return np.frombuffer(b64decode(text), kind)


@pytest.mark.parametrize(("kind", "item"), [("digit", "digit"), ("", "token"), ("<b>", "token")])
def test_what_is_routed_has_its_name(kind, item, trace):
    assert packed(replace(trace, model=replace(trace.model, item_kind=kind)))["item"] == item


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_trace_is_sent_as_it_is(kind):
    trace = made(kind, layers=3, tokens=12)
    data = json.loads(json.dumps(packed(trace)))  # numbers of Python's alone
    assert np.array_equal(array(data["experts"], np.int16).reshape(trace.experts.shape), trace.experts)
    assert array(data["positions"], np.int32).tolist() == trace.tokens["position"].tolist()
    assert array(data["generated"], np.uint8).tolist() == (trace.tokens["phase"] == "generated").astype(int).tolist()
    if trace.weights is None:
        assert data["weights"] is None
    else:
        assert np.array_equal(array(data["weights"], np.float32).reshape(trace.weights.shape), trace.weights)
    assert (data["layers"], data["counts"]) == (list(trace.model.layers), list(trace.model.num_experts))
    assert data["ordered"] is (kind != "unordered")


def test_scores_are_sent_where_they_are_known_and_few_enough(trace):
    sent = array(packed(trace)["scores"], np.uint16) / STEPS
    np.testing.assert_allclose(sent, trace.probabilities("A test").ravel(), atol=1 / STEPS, rtol=0)
    assert packed(replace(trace, logits=None))["scores"] is None
    assert packed(replace(trace, model=replace(trace.model, score_function="unknown")))["scores"] is None
    large = sample_trace(layers=2, tokens=MOST_SCORES // 32 + 1, top_k=1, experts=16)
    assert packed(large)["scores"] is None


def test_the_shorter_layers_of_an_uneven_model_are_padded():
    trace = made("uneven", layers=3, tokens=12, experts=8)
    scores = array(packed(trace)["scores"], np.uint16).reshape(3, 12, 8)
    assert (scores[0, :, 4:] == 0).all() and (scores[0, :, :4] > 0).any()


def test_each_expert_has_the_colour_that_the_map_gives_it():
    trace = sample_trace(layers=3, tokens=40, experts=64)
    data = packed(trace)
    places = array(data["places"], np.uint8).reshape(3, 64)
    chart = next(param for param in data["spec"]["chart"]["params"] if param["name"] == "colours")
    for layer, own in enumerate(chart["value"]):
        sent = {str(e): data["palette"][place] for e, place in enumerate(places[layer])}
        assert {e: colour for e, colour in sent.items() if colour != data["grey"]} == own


def test_the_id_is_of_what_is_shown(trace):
    id_ = packed(trace)["id"]
    assert packed(replace(trace))["id"] == id_  # another object, with the same in it
    changed = trace.logits.copy()
    changed[0, 0, 0] += 1
    others = [
        replace(trace, logits=changed),
        replace(trace, weights=None, logits=None),
        replace(trace, tokens=trace.tokens.assign(text="x")),
        sample_trace(seed=1),
    ]
    assert len({id_, *(packed(other)["id"] for other in others)}) == 5


def test_texts_are_made_visible_and_parts_of_characters_known():
    data = packed(made("hostile", tokens=5))
    assert data["texts"][0] == HOSTILE[0] and "\u202e" not in data["texts"][2]
    assert data["parts"] == [4]


def test_a_long_trace_has_the_overview_and_a_short_one_the_map():
    assert packed(sample_trace(layers=2, tokens=MOST_TOKENS))["spec"]["overview"] is None
    assert packed(sample_trace(layers=2, tokens=MOST_TOKENS + 1))["spec"]["overview"] == "brush"


def test_a_trace_without_an_overview_says_why():
    data = packed(made("unordered", layers=2, tokens=MOST_TOKENS + 8))
    assert data["spec"] is None and "first choice" in data["instead"]


def test_a_trace_in_which_nothing_is_recorded_says_why_there_is_no_map(ids_only_trace):
    trace = replace(ids_only_trace, experts=np.full_like(ids_only_trace.experts, NOT_RECORDED))
    data = packed(trace)
    assert data["spec"] is None and data["instead"]


def test_the_loader_of_streamlit_s_charts_is_found():
    """A guard: its name is Streamlit's own affair. Where it is gone, the explorer has a sentence in the map's place."""
    assert vega_loader()


def test_without_the_loader_no_chart_is_sent(monkeypatch, tmp_path, trace):
    monkeypatch.setattr(component.st, "__file__", str(tmp_path / "__init__.py"))
    assert vega_loader() is None
    packed.cache_clear()
    data = packed(trace)
    packed.cache_clear()
    assert (data["spec"], data["loader"]) == (None, None)


def test_what_a_browser_tells_is_checked(trace):
    id_ = packed(trace)["id"]

    def told(at, opened=None):
        return component.told(trace, {"at": at, "open": opened})

    nothing = component.Chosen(None, None)
    assert component.told(trace, {}) == nothing
    assert told([1, 2, id_]) == component.Chosen((1, 2), None)
    assert told([1, 2, id_ + 1]) == nothing  # of another trace
    for wrong in ([9, 2, id_], [1, 99, id_], [1, -1, id_], ["1", 2, id_], [1.0, 2, id_], {}, "x", None):
        assert told(wrong) == nothing
    asked = {"expert": [1, 3], "at": [1, 2], "id": id_}
    assert told(None, asked) == component.Chosen((1, 2), (1, 3))

    for wrong in ({"expert": [1, 8]}, {"expert": [9, 0]}, {"expert": "x"}, {"id": id_ + 1}):
        assert told(None, asked | wrong).opened is None

    def direct(**other):
        return component.told(trace, {"direct": {"token": 2, "on": True, "id": id_, "press": 0.1} | other}).direct

    assert direct() == (2, True) and direct(on=False) == (2, False)
    wrongs = ({"token": 99}, {"token": -1}, {"token": "2"}, {"token": None}, {"on": "x"}, {"id": id_ + 1})
    assert {direct(**wrong) for wrong in wrongs} == {None}
    assert component.told(trace, {"direct": "x"}).direct is None


def test_mutes_that_a_browser_tells_are_checked(trace):
    id_, least = packed(trace)["id"], {"asked": 1, "id": packed(trace)["id"]}

    def told(mutes):
        found = component.told(trace, {"mutes": mutes})
        return found.mutes, found.asked

    assert told(least | {"mutes": [[1, 3], [0, 2], [1, 3]]}) == (((0, 2), (1, 3)), 1)
    assert told(least | {"mutes": []}) == ((), 1)
    most = [[0, expert] for expert in range(8)]
    assert told(least | {"mutes": most})[0] == tuple(map(tuple, most))
    wrong = [
        *({"mutes": [one]} for one in ([9, 0], [1, 8], [1, -1], ["1", 0], [1.0, 0], [1], [1, 0, 0], None, "10")),
        {"mutes": [*most, [1, 0]]},
        {"mutes": "x"},
        {"mutes": [], "asked": -1},
        {"mutes": [], "asked": 2**40},
        {"mutes": [], "asked": "1"},
        {"mutes": [], "id": id_ + 1},
    ]
    assert {told(least | one) for one in wrong} == {(None, 0)}
    for other in (None, [], "x", {"asked": 1}, {"mutes": [[1, 3]], "id": id_}):
        assert told(other) == (None, 0)


def test_which_word_is_asked_by_a_message_about_this_trace_alone(trace):
    id_ = packed(trace)["id"]
    assert component.told(trace, {"decide": {"id": id_}}).decide
    assert not any(component.told(trace, {"decide": wrong}).decide for wrong in ({"id": id_ + 1}, {}, id_, None, []))


def test_names_and_next_tokens_are_sent_as_they_are():
    trace = made("next", layers=3, tokens=12)
    data = json.loads(json.dumps(packed(trace)["next"]))
    found = trace.next_tokens
    assert np.array_equal(array(data["ids"], np.int32).reshape(12, 5), found.rows)
    assert np.array_equal(array(data["lensP"], np.float32).reshape(3, 12, 5), found.lens_p)
    assert data["texts"] == [visible(text) for text in found.texts]
    rows = [(0, 1, True, "a, b, c"), (2, 7, True, "x" * 10_000), (1, 1, False, UNNAMED)]
    frame = pd.DataFrame(rows, columns=["layer", "expert", "holds", "name"]).assign(f1=0.6, f1_token=[0.7, 0.5, 0.5])
    names = packed_names(trace, frame)
    assert names[0][1] == [f"a, b +1 ({BEATEN})", "a, b, c"] and len(names[2][7][1]) <= 200 and len(names[2][7][0]) < 60
    assert names[1] == [None] * 8 and packed_names(trace, None) is None


def test_the_end_of_a_run_that_goes_on_is_sent():
    trace = sample_trace(layers=2, tokens=300)
    data = component._live(trace, (1, 299))
    assert data["texts"] == packed_strip(trace)["texts"][-256:] and data["at"] == [1, 255]
    assert "spec" not in data and data["live"]


def test_addresses_of_experts_have_in_common_what_the_page_says(trace):
    def link(of, layer, expert):
        assert of is trace
        return {"layer": str(layer), "expert": str(expert), "model": "m"}

    assert component._constant(link, trace) == {"model": "m"}


def test_findings_are_sent_in_python_s_numbers():
    found = replace(STAND_IN[0], layer=np.int32(2), token=np.int64(7), expert=np.int16(3))
    assert json.dumps(component.packed_finding(found))


def test_a_trace_without_tokens_is_refused(trace):
    with pytest.raises(InvalidTrace, match="tokens"):
        component.explorer(trace.select(tokens=slice(0, 0)), None, key="x")
