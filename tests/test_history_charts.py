"""The pictures of the gallery, drawn from the results that ship: each as it was when somebody last looked at it."""

import pytest
from test_charts import check_golden, encodings

from moeviz.charts.one_input import ONE_INPUT
from moeviz.charts.side_by_side import SIDE_BY_SIDE
from moeviz.embedded.example import example_trace
from moeviz.history.mixtral.chart import MIXTRAL_LOAD, MIXTRAL_REPETITION
from moeviz.history.shipped_traces import shipped_trace
from moeviz.history.systems import SYSTEMS, part
from moeviz.history.timeline.chart import EXPERTS_AT_WORK, TIMELINE

# A picture, and what `measure` is given.
PICTURES = (
    (TIMELINE, lambda: ()),
    (EXPERTS_AT_WORK, lambda: ()),
    (MIXTRAL_LOAD, lambda: (15,)),
    (MIXTRAL_REPETITION, lambda: ()),
    (ONE_INPUT, lambda: (example_trace(), 36)),
    (SIDE_BY_SIDE, lambda: ({name: shipped_trace(name) for name in SYSTEMS},)),
    *(shown for name in SYSTEMS for shown in part(name, "shown").SHOWN),
)
every_picture = pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture[0].key)
HISTORY_CHARTS = [chart for chart, _ in PICTURES]


def frame_of(picture):
    chart, given = picture
    return chart.measure(*given())


@every_picture
def test_asks_a_question_and_says_how_to_read_the_answer(picture):
    chart, _ = picture
    assert chart.question.endswith("?") and chart.reading.endswith(".")
    assert "Columns:" in chart.method and "Source:" in chart.method


@every_picture
def test_is_as_it_was_when_somebody_looked(picture, request):
    chart, _ = picture
    frame = frame_of(picture)
    assert len(frame)
    spec = chart.draw(frame).to_dict()
    gradients = [encoding for encoding in encodings(spec) if encoding.get("color", {}).get("type") == "quantitative"]
    assert not gradients or spec["usermeta"]["embedOptions"]["renderer"] == "canvas"
    check_golden(chart, spec, request)


def test_keys_are_unique():
    assert len({chart.key for chart in HISTORY_CHARTS}) == len(HISTORY_CHARTS)
