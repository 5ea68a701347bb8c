"""An answer that is kept is the one that a library would give again; an error is raised each time."""

import altair as alt
import pytest
from altair.utils import schemapi
from altair.utils.schemapi import SchemaValidationError
from asked_once import remembering_what_is_right
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest


def test_a_part_of_a_chart_that_is_wrong_is_told_each_time_also_after_right_ones():
    for _ in range(2):
        assert alt.Scale(type="log").to_dict() == {"type": "log"}
        for wrong in ("logarithmic", ["log"], 1):
            with pytest.raises(SchemaValidationError):
                alt.Scale(type=wrong)


def test_what_was_right_is_not_asked_again_and_what_differs_by_a_type_or_a_schema_is():
    asked = []

    def check(spec, schema, **_):
        asked.append(spec)
        return "wrong" if spec == {"a": "bad"} else None

    once, one, other = remembering_what_is_right(check), {}, {}
    for spec, schema in (({"a": 1}, one), ({"a": 1}, one), ({"a": 1.0}, one), ({"a": True}, one), ({"a": 1}, other)):
        assert once(spec, schema) is None
    for spec in ([1], (1,), {"a": "bad"}, {"a": "bad"}):
        assert once(spec, one, raise_error=False) == ("wrong" if spec == {"a": "bad"} else None)
    assert len(asked) == 8, "all but the second"
    strange = {"a": object()}
    once(strange, one)
    once(strange, one)
    assert len(asked) == 10, "what has no bytes is asked for each time"


def test_channels_of_words_become_those_of_the_same_names():
    chart = alt.Chart().mark_bar().encode(x="a:Q", color=alt.value("red"))
    assert isinstance(chart.encoding.x, alt.X) and isinstance(chart.encoding.color, alt.ColorValue)


def test_parts_of_a_chart_and_nothing_else_are_written_as_parts():
    class Part:
        _schema = {"type": "object"}  # noqa: RUF012

        def to_dict(self):
            return {"is": "a part"}

    chart = alt.Chart(alt.InlineData([])).mark_bar().properties(usermeta={"a": Part(), "b": ["text", 1.5, None, True]})
    assert chart.to_dict(validate=False)["usermeta"] == {"a": {"is": "a part"}, "b": ["text", 1.5, None, True]}
    parts = [isinstance(each, schemapi.SchemaLike) for each in (Part(), alt.X("x"), "x", 1, None)]
    assert parts == [True, True, False, False, False]


def test_packages_are_read_once():
    assert manifest_scanner.scan_component_manifests() is manifest_scanner.scan_component_manifests()


def test_a_page_that_is_not_drawn_in_time_is_an_error_as_ever():
    def page():
        import threading

        threading.Event().wait(0.2)

    with pytest.raises(RuntimeError, match=r"timed out after 0\.05"):
        AppTest.from_function(page).run(timeout=0.05)
    assert not AppTest.from_function(page).run(timeout=60).exception
