"""The pictures of the gallery, drawn from the results that ship: each as it was when somebody last looked at it."""

from functools import cache

import pytest
from test_charts import check_golden, encodings

from moeviz.capture.mixtures.shipped import shipped_trace
from moeviz.charts.history import (
    balance,
    decision_lines,
    dense_contrast,
    dropped_tokens,
    expert_room,
    gate_over_time,
    gated_blocks,
    learning_curves,
    side_by_side,
    where_and_what,
)
from moeviz.charts.history.timeline import TIMELINE
from moeviz.history.adaptive_mixtures import Mixture as LocalExperts
from moeviz.history.conditional_computation import Conditional
from moeviz.history.datasets import japanese_vowels
from moeviz.history.deep_mixture import DeepMixture
from moeviz.history.dense_contrast import Run
from moeviz.history.hierarchical_mixture import Hierarchy
from moeviz.history.hmm_mixtures import Mixture as HMMExperts
from moeviz.history.pictures.balance import shipped_table
from moeviz.history.pictures.dropped_tokens import shipped_sweep as switch_sweep
from moeviz.history.pictures.memory_and_compute import shipped_sweep as dense_sweep
from moeviz.history.results import shipped
from moeviz.history.sparsely_gated import SparselyGated
from moeviz.history.svm_mixtures import SVMMixture
from moeviz.history.switch_transformer import Switch
from moeviz.history.systems import SYSTEMS
from moeviz.history.vowels import stand_in

ships = cache(shipped)
LOCAL, TREE = (LocalExperts, "local-experts"), (Hierarchy, "hierarchical")
HMM, SVM, DEEP = (HMMExperts, "hmm-experts"), (SVMMixture, "svm-experts"), (DeepMixture, "deep-mixture")
GATED, SPARSE, SWITCH = (Conditional, "conditional"), (SparselyGated, "sparsely-gated"), (Switch, "switch")
DENSE = (Run, "dense")

# A picture, the result that it is of (none: of what ships beside it), and what else `measure` is given.
PICTURES = (
    (TIMELINE, None, lambda: ()),
    (side_by_side.SIDE_BY_SIDE, None, lambda: ({name: shipped_trace(name) for name in SYSTEMS},)),
    (decision_lines.DECISION_LINES, LOCAL, lambda: (stand_in(),)),
    (learning_curves.LEARNING_CURVES, TREE, lambda: ()),
    (gate_over_time.GATE_OVER_TIME, HMM, lambda: (japanese_vowels()[1], 3)),
    (gate_over_time.SETTLING, HMM, lambda: (japanese_vowels()[1],)),
    (gate_over_time.SOFT_AND_HARD, None, lambda: ()),
    (expert_room.EXPERT_ROOM, SVM, lambda: ()),
    (expert_room.OVERFLOW, SVM, lambda: ()),
    (expert_room.ERRORS, SVM, lambda: ()),
    (expert_room.ERROR_BY_EXPERTS, None, lambda: ()),
    (expert_room.WHAT_ROOM_CHANGES, None, lambda: ()),
    (where_and_what.GATES_BY_PLACE_AND_DIGIT, DEEP, lambda: ()),
    (where_and_what.FACTOR_INFORMATION, DEEP, lambda: ()),
    (where_and_what.SHARE_BY_EPOCH, DEEP, lambda: ()),
    (gated_blocks.BLOCKS_BY_DIGIT, GATED, lambda: ()),
    (gated_blocks.BLOCKS_ON, GATED, lambda: ()),
    (gated_blocks.ERROR_BY_BLOCKS, GATED, lambda: ()),
    (balance.BALANCE_TABLE, None, lambda: (shipped_table(),)),
    (balance.BUSIEST_EXPERT, SPARSE, lambda: ()),
    (dropped_tokens.EXPERT_QUEUES, SWITCH, lambda: ()),
    (dropped_tokens.DROP_RATES, SWITCH, lambda: (switch_sweep(),)),
    (dropped_tokens.DROPPED_BY_PLACE, SWITCH, lambda: ()),
    (dense_contrast.MEMORY_COMPUTE, DENSE, lambda: ()),
    (dense_contrast.PERPLEXITY, DENSE, lambda: (dense_sweep(),)),
)
every_picture = pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture[0].key)
HISTORY_CHARTS = [chart for chart, _, _ in PICTURES]


def frame_of(picture):
    chart, result, others = picture
    return chart.measure(*([ships(*result)] if result else []), *others())


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
