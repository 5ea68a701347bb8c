"""The pictures of the gallery, drawn from the results that ship: each as it was when somebody last looked at it."""

from functools import cache

import pytest
from test_charts import check_golden, encodings

from moeviz.charts import side_by_side
from moeviz.history.conditional_computation_2015 import chart as gated_blocks
from moeviz.history.conditional_computation_2015.model import Conditional
from moeviz.history.deep_mixture_2013 import chart as where_and_what
from moeviz.history.deep_mixture_2013.model import DeepMixture
from moeviz.history.dense_contrast import chart as dense_contrast
from moeviz.history.dense_contrast.model import Run
from moeviz.history.dense_contrast.picture import shipped_sweep as dense_sweep
from moeviz.history.hierarchical_1994 import chart as learning_curves
from moeviz.history.hierarchical_1994.model import Hierarchy
from moeviz.history.hmm_experts_1996 import chart as gate_over_time
from moeviz.history.hmm_experts_1996.model import Mixture as HMMExperts
from moeviz.history.local_experts_1991 import chart as decision_lines
from moeviz.history.local_experts_1991.model import Mixture as LocalExperts
from moeviz.history.shared.datasets import japanese_vowels
from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in
from moeviz.history.shipped_traces import shipped_trace
from moeviz.history.sparsely_gated_2017 import chart as balance
from moeviz.history.sparsely_gated_2017.model import SparselyGated
from moeviz.history.sparsely_gated_2017.picture import shipped_table
from moeviz.history.svm_experts_2002 import chart as expert_room
from moeviz.history.svm_experts_2002.model import SVMMixture
from moeviz.history.switch_2021 import chart as dropped_tokens
from moeviz.history.switch_2021.model import Switch
from moeviz.history.switch_2021.picture import shipped_sweep as switch_sweep
from moeviz.history.systems import SYSTEMS
from moeviz.history.timeline.chart import TIMELINE

ships = cache(shipped)
# A picture, the result that it is of (none: of what ships beside it), and what else `measure` is given.
PICTURES = (
    (TIMELINE, None, lambda: ()),
    (side_by_side.SIDE_BY_SIDE, None, lambda: ({name: shipped_trace(name) for name in SYSTEMS},)),
    (decision_lines.DECISION_LINES, LocalExperts, lambda: (stand_in(),)),
    (learning_curves.LEARNING_CURVES, Hierarchy, lambda: ()),
    (gate_over_time.GATE_OVER_TIME, HMMExperts, lambda: (japanese_vowels()[1], 3)),
    (gate_over_time.SETTLING, HMMExperts, lambda: (japanese_vowels()[1],)),
    (gate_over_time.SOFT_AND_HARD, None, lambda: ()),
    (expert_room.EXPERT_ROOM, SVMMixture, lambda: ()),
    (expert_room.OVERFLOW, SVMMixture, lambda: ()),
    (expert_room.ERRORS, SVMMixture, lambda: ()),
    (expert_room.ERROR_BY_EXPERTS, None, lambda: ()),
    (expert_room.WHAT_ROOM_CHANGES, None, lambda: ()),
    (where_and_what.GATES_BY_PLACE_AND_DIGIT, DeepMixture, lambda: ()),
    (where_and_what.FACTOR_INFORMATION, DeepMixture, lambda: ()),
    (where_and_what.SHARE_BY_EPOCH, DeepMixture, lambda: ()),
    (gated_blocks.BLOCKS_BY_DIGIT, Conditional, lambda: ()),
    (gated_blocks.BLOCKS_ON, Conditional, lambda: ()),
    (gated_blocks.ERROR_BY_BLOCKS, Conditional, lambda: ()),
    (balance.BALANCE_TABLE, None, lambda: (shipped_table(),)),
    (balance.BUSIEST_EXPERT, SparselyGated, lambda: ()),
    (dropped_tokens.EXPERT_QUEUES, Switch, lambda: ()),
    (dropped_tokens.DROP_RATES, Switch, lambda: (switch_sweep(),)),
    (dropped_tokens.DROPPED_BY_PLACE, Switch, lambda: ()),
    (dense_contrast.MEMORY_COMPUTE, Run, lambda: ()),
    (dense_contrast.PERPLEXITY, Run, lambda: (dense_sweep(),)),
)
every_picture = pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture[0].key)
HISTORY_CHARTS = [chart for chart, _, _ in PICTURES]


def frame_of(picture):
    chart, result, others = picture
    return chart.measure(*([ships(result)] if result else []), *others())


@every_picture
def test_asks_a_question_and_says_how_to_read_the_answer(picture):
    chart, _, _ = picture
    assert chart.question.endswith("?") and chart.reading.endswith(".")
    assert "Columns:" in chart.method and "Source:" in chart.method


@every_picture
def test_is_as_it_was_when_somebody_looked(picture, request):
    chart, _, _ = picture
    frame = frame_of(picture)
    assert len(frame)
    spec = chart.draw(frame).to_dict()
    gradients = [encoding for encoding in encodings(spec) if encoding.get("color", {}).get("type") == "quantitative"]
    assert not gradients or spec["usermeta"]["embedOptions"]["renderer"] == "canvas"
    check_golden(chart, spec, request)


def test_keys_are_unique():
    assert len({chart.key for chart in HISTORY_CHARTS}) == len(HISTORY_CHARTS)
