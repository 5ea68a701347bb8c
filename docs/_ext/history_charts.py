"""The charts of the history, each with the numbers that it is drawn from: results that ship, none trained here.

(But for the soft mixture of support vector machines, which takes a second.)
"""

from collections.abc import Callable, Iterator
from typing import Any

from moeviz.charts.chart import Chart
from moeviz.charts.side_by_side import SIDE_BY_SIDE
from moeviz.history.conditional_computation_2015 import chart as conditional
from moeviz.history.conditional_computation_2015.model import Conditional
from moeviz.history.deep_mixture_2013 import chart as deep
from moeviz.history.deep_mixture_2013.model import DeepMixture
from moeviz.history.dense_contrast import chart as dense
from moeviz.history.dense_contrast.model import Run
from moeviz.history.dense_contrast.picture import shipped_sweep as dense_sweep
from moeviz.history.hierarchical_1994 import chart as hierarchical
from moeviz.history.hierarchical_1994.model import Hierarchy
from moeviz.history.hmm_experts_1996 import chart as hmm
from moeviz.history.hmm_experts_1996.model import Mixture as HMMExperts
from moeviz.history.local_experts_1991 import chart as local
from moeviz.history.local_experts_1991.model import Mixture as LocalExperts
from moeviz.history.shared.datasets import japanese_vowels
from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in
from moeviz.history.shipped_traces import shipped_trace
from moeviz.history.sparsely_gated_2017 import chart as sparse
from moeviz.history.sparsely_gated_2017.model import SparselyGated
from moeviz.history.sparsely_gated_2017.picture import shipped_table
from moeviz.history.svm_experts_2002 import chart as svm
from moeviz.history.svm_experts_2002 import em
from moeviz.history.svm_experts_2002.model import SVMMixture
from moeviz.history.switch_2021 import chart as switch
from moeviz.history.switch_2021.model import Switch
from moeviz.history.switch_2021.picture import shipped_sweep as switch_sweep
from moeviz.history.systems import SYSTEMS
from moeviz.history.timeline.chart import TIMELINE

# For each system its charts, and what `measure` is given.
Row = tuple[Chart, Callable[[], tuple[Any, ...]]]
ALL = "All systems"
CHARTS: dict[str, tuple[Row, ...]] = {
    ALL: (
        (TIMELINE, lambda: ()),
        (SIDE_BY_SIDE, lambda: ({name: shipped_trace(name) for name in SYSTEMS},)),
    ),
    "local-experts": ((local.DECISION_LINES, lambda: (shipped(LocalExperts), stand_in())),),
    "hierarchical": ((hierarchical.LEARNING_CURVES, lambda: (shipped(Hierarchy),)),),
    "hmm-experts": (
        (hmm.GATE_OVER_TIME, lambda: (shipped(HMMExperts), japanese_vowels()[1], 3)),
        (hmm.SETTLING, lambda: (shipped(HMMExperts), japanese_vowels()[1])),
        (hmm.SOFT_AND_HARD, lambda: ()),
    ),
    "svm-experts": (
        (svm.EXPERT_ROOM, lambda: (shipped(SVMMixture),)),
        (svm.OVERFLOW, lambda: (shipped(SVMMixture),)),
        (svm.ERRORS, lambda: (shipped(SVMMixture),)),
        (svm.ERROR_BY_EXPERTS, lambda: ()),
        (svm.WHAT_ROOM_CHANGES, lambda: ()),
        (svm.SVM_LINES, lambda: (em.train(), stand_in())),
        (svm.SOFT_ERRORS, lambda: (em.train(),)),
    ),
    "deep-mixture": (
        (deep.GATES_BY_PLACE_AND_DIGIT, lambda: (shipped(DeepMixture),)),
        (deep.FACTOR_INFORMATION, lambda: (shipped(DeepMixture),)),
        (deep.SHARE_BY_EPOCH, lambda: (shipped(DeepMixture),)),
    ),
    "conditional": (
        (conditional.BLOCKS_BY_DIGIT, lambda: (shipped(Conditional),)),
        (conditional.BLOCKS_ON, lambda: (shipped(Conditional),)),
        (conditional.ERROR_BY_BLOCKS, lambda: (shipped(Conditional),)),
    ),
    "sparsely-gated": (
        (sparse.BALANCE_TABLE, lambda: (shipped_table(),)),
        (sparse.BUSIEST_EXPERT, lambda: (shipped(SparselyGated),)),
    ),
    "switch": (
        (switch.EXPERT_QUEUES, lambda: (shipped(Switch),)),
        (switch.DROP_RATES, lambda: (shipped(Switch), switch_sweep())),
        (switch.DROPPED_BY_PLACE, lambda: (shipped(Switch),)),
    ),
    "dense": (
        (dense.MEMORY_COMPUTE, lambda: (shipped(Run),)),
        (dense.PERPLEXITY, lambda: (shipped(Run), dense_sweep())),
    ),
}


def by_system() -> Iterator[tuple[str, list[tuple[Chart, Any]]]]:
    """A heading for each system, and its charts with their numbers."""
    for name, rows in CHARTS.items():
        heading = ALL if name == ALL else f"{SYSTEMS[name].year}: {SYSTEMS[name].title}"
        yield heading, [(chart, chart.measure(*given())) for chart, given in rows]
