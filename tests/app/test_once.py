"""What is worked out once is what everybody is shown, and nothing of anybody's own."""

from moeviz_app.jobs import recorded
from moeviz_app.jobs.recorded import cached_for_example

from moeviz.charts import NAMED


def test_of_the_example_it_is_made_once_and_of_any_other_trace_each_time(trace):
    made = []

    def make():
        made.append(len(made))
        return made[-1]

    example, what = recorded.example(), object()
    assert (cached_for_example(example, what, make), cached_for_example(example, what, make)) == (0, 0)
    assert (cached_for_example(trace, what, make), cached_for_example(trace, what, make)) == (1, 2)


def test_a_picture_that_is_shown_again_has_not_changed():
    chart, example = NAMED["load_heatmap"], recorded.example()
    picture = chart.picture(chart.measure(example))
    before = picture.to_dict()
    from moeviz.charts.chart import clickable

    made = clickable(picture, ["layer", "expert"]).to_dict()
    assert picture.to_dict() == before
    assert made != before and clickable(picture, ["layer", "expert"]).to_dict() == made
