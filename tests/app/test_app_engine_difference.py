"""The page of two recordings of the same text: what it says of them, and where they come from."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from app_pages import SAFE_ELEMENTS, page, pictures, sentences, visit_of
from engine_traces import late, noisy

from moeviz.metrics.conventions import explain
from moeviz.metrics.engine_difference import (
    convention_sentence,
    engine_difference,
    engine_difference_summary,
    first_partings,
)
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace
from moeviz_app.jobs import recorded
from moeviz_app.session import session
from moeviz_app.session.library import SessionLibrary
from moeviz_app.views import engine_difference as engines

VIEW = "moeviz_app.views.engine_difference.engine_difference_page"


def visit(*traces: RoutingTrace):
    """The page, for somebody with these recent traces, the oldest first."""
    app = page(VIEW, traces[-1] if traces else None)
    if not traces:
        return app
    visit_of(app).recent = SessionLibrary({f"trace {at}": trace for at, trace in enumerate(traces)})
    return app.run()


def test_the_two_newest_of_the_same_text_are_compared_in_a_sentence_and_three_charts():
    one = sample_trace(tokens=60)
    pair, other = (one, noisy(one, 0.05)), sample_trace(tokens=30)
    app = visit(other, *pair)
    assert not app.exception and pictures(app) == 3
    assert (app.session_state[session.FIRST_TRACE], app.session_state[session.SECOND_TRACE]) == ("trace 1", "trace 2")
    assert engine_difference_summary(engine_difference(pair), first_partings(pair)) in sentences(app)


def test_a_misalignment_is_said_and_not_drawn_as_disagreement():
    one = sample_trace(tokens=60)
    app = visit(one, late(one, 1))
    app.selectbox(key=session.FIRST_TRACE).set_value("trace 0").run()
    app.selectbox(key=session.SECOND_TRACE).set_value("trace 1").run()
    assert "Row t of the first is row t-1 of the second" in sentences(app)
    assert "are the same in the second" in sentences(app) and pictures(app) == 2
    assert "every token has the same ones in both" in sentences(app)


def test_with_traces_of_other_texts_alone_it_begins_with_the_example_and_any_pair_can_be_chosen():
    """So it is when Compare has chosen the two; and the choice holds until there is another trace."""
    one = sample_trace(tokens=40)
    other = replace(one, tokens=one.tokens.assign(token_id=np.arange(40, dtype=np.int32) + 100))
    app = visit(one, other)
    assert app.session_state[session.ENGINE_EXAMPLE] == engines.PLANTED and not app.selectbox and pictures(app)
    app.session_state[session.ENGINE_EXAMPLE] = engines.YOURS
    app.run()
    assert not app.exception and "different texts" in sentences(app) and pictures(app) == 0
    assert len(app.selectbox) == 2 and "different texts" in sentences(app.run())
    library = SessionLibrary({"trace 0": one, "trace 1": other, "trace 2": noisy(one, 0.05)})
    visit_of(app).recent = library
    app.run()
    assert (app.session_state[session.FIRST_TRACE], app.session_state[session.SECOND_TRACE]) == ("trace 0", "trace 2")
    app.session_state[session.ENGINE_EXAMPLE] = engines.PLANTED
    assert not app.run().selectbox
    app = visit(one.select(layers=[0]), one.select(layers=[1]))
    app.session_state[session.ENGINE_EXAMPLE] = engines.YOURS
    assert "no layer in common" in sentences(app.run())


def test_the_example_has_a_planted_convention_which_is_named_shown_and_undone():
    """As recorded no choice but a chance one is the same; undone all are, and the chart follows the choice."""
    app = visit()
    (found,) = explain((recorded.example(), engines._planted())).conventions
    assert found.kind == "experts" and (found.before > 0.5, found.after) == (True, 0.0)
    assert convention_sentence(found) in sentences(app) and not app.exception
    drawn = {}
    for view in engines.VIEWS:
        app.session_state[session.ENGINE_VIEW] = view
        drawn[view] = app.run().get("vega_lite_chart")[0].proto.SerializeToString()
    assert drawn[engines.RECORDED] != drawn[engines.UNDONE]
    one = sample_trace(tokens=60)
    keys = [node.key for node in visit(one, noisy(one, 0.05)).get("button_group")]
    assert session.ENGINE_EXAMPLE in keys and session.ENGINE_VIEW not in keys


def test_who_has_nothing_to_compare_sees_the_example_in_two_precisions_read_once_for_all(monkeypatch):
    app = visit()
    app.session_state[session.ENGINE_EXAMPLE] = engines.IN_PRECISIONS
    app.run()
    assert not app.exception and "expert ids" in sentences(app) and pictures(app) >= 2
    assert "read first in float32 and then in bfloat16" in sentences(app) and not app.selectbox
    assert not visit_of(app).recent
    monkeypatch.setattr("moeviz_app.jobs.model_service.run_on_model", pytest.fail)
    again = visit()
    again.session_state[session.ENGINE_EXAMPLE] = engines.IN_PRECISIONS
    assert sentences(again.run()) == sentences(app)


def test_a_long_text_opens_where_it_first_parts():
    one = sample_trace(tokens=600)
    experts = one.experts.copy()
    experts[2, 500, 1] = next(e for e in range(8) if e not in experts[2, 500])
    app = visit(one, replace(one, experts=experts, weights=None))
    (map_,) = (node for node in app.get("vega_lite_chart") if "names[datum.value]" in node.proto.spec)
    assert '"500"' in map_.proto.spec and '"10"' not in map_.proto.spec


def test_several_texts_have_a_table_and_hostile_tokens_stay_text():
    hostile = ["![x](http://example.com/x.png)", "<img src=x onerror=alert(1)>", "{{7*7}}", "\u202eevil"] * 10
    one = sample_trace(tokens=40)
    tokens = one.tokens.assign(
        text=pd.Series(hostile, dtype="str"),
        sequence=np.repeat([0, 1], 20).astype("int32"),
        position=np.tile(np.arange(20, dtype="int32"), 2),
    )
    one = replace(one, tokens=tokens, model=replace(one.model, name=hostile[0], caution=hostile[1]))
    app = visit(one, noisy(one, 0.5))
    assert not app.exception and "of 2 sequences part" in sentences(app)
    assert any("before" in table.value for table in app.dataframe)
    unsafe = [node for node in app if hasattr(node, "proto") and node.type not in SAFE_ELEMENTS]
    assert not [node for node in unsafe if "example.com" in str(node.proto) or "onerror" in str(node.proto)]


def test_one_token_and_traces_without_logits_are_drawn():
    one = sample_trace(tokens=1)
    assert not visit(one, noisy(one, 3.0)).exception
    bare = replace(sample_trace(tokens=20), logits=None)
    app = visit(bare, noisy(sample_trace(tokens=20), 0.5))
    assert not app.exception and "the first trace has none" in sentences(app) and pictures(app) == 2


def test_texts_without_ids_are_compared_by_their_words_and_what_cannot_be_checked_is_said():
    one = sample_trace(tokens=40)
    bare = replace(one, tokens=one.tokens.assign(token_id=np.int32(-1)))
    other = replace(bare, tokens=bare.tokens.assign(text="SELECT"))
    app = visit(bare, other, noisy(bare, 0.05))
    assert (app.session_state[session.FIRST_TRACE], app.session_state[session.SECOND_TRACE]) == ("trace 0", "trace 2")
    blank = replace(bare, tokens=bare.tokens.assign(text=""))
    app = visit(blank, noisy(blank, 0.05))
    assert not app.exception and "cannot be checked: no token has an id, or a text, in both." in sentences(app)
