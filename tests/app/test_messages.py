"""What a browser's message may hold: every kind of state, held to limits before Streamlit reads it."""

import json

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

from moeviz_app.server.tabs import DEEPEST, LARGEST, LONGEST_QUERY, LONGEST_TEXT, MOST_PARTS, Forged, check_message


def message(*states, **more):
    """A message with these states of widgets."""
    asked = BackMsg()
    asked.rerun_script.widget_states.widgets.extend(WidgetState(id=f"widget {n}", **s) for n, s in enumerate(states))
    for name, value in more.items():
        setattr(asked.rerun_script, name, value)
    return asked.SerializeToString()


ROWS = '{"edited_rows":{},"deleted_rows":[],"added_rows":[' + ",".join(["{}"] * MOST_PARTS) + "]}"
DEEP = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)
TOO_DEEP_FOR_PYTHON = "[" * 5000 + "]" * 5000
FORGED = {
    "no message": b"\xff\xff",
    "a million rows": message({"string_value": ROWS}),
    "rows of a component": message({"json_value": ROWS}),
    "a text without end": message({"string_value": "x" * (LONGEST_TEXT + 1)}),
    "bytes without end": message({"bytes_value": b"x" * (LONGEST_TEXT + 1)}),
    "a table without end": message({"arrow_value": {"data": b"x" * (LONGEST_TEXT + 1)}}),
    "an address without end": message(query_string="x" * (LONGEST_QUERY + 1)),
    "numbers without end": message({"double_array_value": {"data": [0.0] * (MOST_PARTS + 1)}}),
    "widgets without end": message(*[{"bool_value": True}] * (MOST_PARTS // 2 + 1)),
    "nested": message({"json_value": DEEP}),
    "a text that is nested JSON": message({"string_value": DEEP}),
    "nested for ever": message({"json_trigger_value": TOO_DEEP_FOR_PYTHON}),
    "a text nested for ever": message({"string_value": TOO_DEEP_FOR_PYTHON}),
    "no JSON": message({"json_value": "{"}),
    "a number of 5,000 digits": message({"json_value": "1" * 5000}),
    "infinite": message({"double_value": float("inf")}),
    "no number": message({"double_array_value": {"data": [float("nan")]}}),
    "no number in JSON": message({"json_value": '{"at": [NaN]}'}),
    "larger than any browser counts": message({"int_value": LARGEST + 1}),
    "larger in JSON": message({"string_value": f'{{"selection": {{"rows": [{LARGEST + 1}]}}}}'}),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_no_page_sends_is_refused_of_every_kind(name):
    with pytest.raises(Forged):
        check_message(FORGED[name])


def test_what_pages_send_is_taken_and_what_a_visitor_types_is_theirs():
    run = json.dumps([{"event": "run", "value": {"text": 'É "a", {b' * 1000, "press": "1"}}])
    typed = ["[" * 300, "{" * 5000, "[NaN, 1", "1" * 5000, ROWS[:-1], "x" * LONGEST_TEXT]
    states = [{"json_trigger_value": run}, {"json_value": "null"}, {"trigger_value": True}, {"int_value": -3}]
    states += [{"double_array_value": {"data": [0.5]}}, {"string_array_value": {"data": ["a", "b"]}}]
    check_message(message(*states, *({"string_value": text} for text in typed), query_string="layer=2"))
    check_message(BackMsg(stop_script=True).SerializeToString())


def test_a_deployment_that_takes_longer_texts_takes_longer_messages():
    check_message(FORGED["a text without end"], longest_text=4 * LONGEST_TEXT)
    check_message(FORGED["a million rows"], most_parts=4 * MOST_PARTS)
