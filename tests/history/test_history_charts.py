"""The pictures of the gallery, drawn from the results that ship: each as it was when somebody last looked at it."""

import pandas as pd
import pytest
from chart_cases import HISTORY_CHARTS, PICTURES, check_golden, encodings

from moeviz.charts.system_table import systems_side_by_side

every_picture = pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture[0].key)


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


def test_the_boxes_of_a_system_are_filled_for_as_many_experts_as_an_input_goes_to():
    """Soft gates fill all; the network of 2017 two of 16; of three halves, a box is filled by half."""
    columns = {"share": 0.25, "layer": 0, "entropy": 0.5, "num_experts": 4}
    frame = pd.DataFrame({"trace": ["soft"] * 4 + ["sparse"] * 4, "expert": [0, 1, 2, 3] * 2, **columns})
    spec = systems_side_by_side(frame.assign(used=[4.0] * 4 + [1.5] * 4)).to_dict()
    (boxes,) = (rows for rows in spec["datasets"].values() if "filled" in rows[0])
    filled = dict.fromkeys(("soft", "sparse"), 0.0)
    for box in boxes:
        filled[box["trace"]] += max(box["filled"] - box["from"], 0) / (box["to"] - box["from"])
    assert filled == pytest.approx({"soft": 4, "sparse": 1.5})
    words = [row["words"] for rows in spec["datasets"].values() for row in rows if "words" in row]
    assert words == ["4 of 4", "1.5 of 4"]
