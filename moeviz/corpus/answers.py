"""Which metrics of a trace a dataset can answer, by the metric's name."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from moeviz.corpus import analyses, rows

Answer = Callable[..., pd.DataFrame]  # of a dataset, and of layers

FROM_TABLES: dict[str, Answer] = {
    analysis.__name__: analysis
    for analysis in (
        analyses.expert_load,
        analyses.coverage,
        analyses.balance,
        analyses.balance_over_time,
        analyses.experts_needed,
        analyses.load_by_label,
        analyses.label_information,
        analyses.label_divergence,
        analyses.co_activation,
        analyses.consecutive_transitions,
        analyses.consecutive_information,
        analyses.locality,
        analyses.locality_beside_mixtral,
    )
}
FROM_ROWS: dict[str, Answer] = {"top_tokens": rows.top_tokens}  # which also take `progress`


def answer_of(metric: Callable[..., Any]) -> Answer | None:
    """The analysis that has the numbers of a metric; None where a dataset does not keep what it needs."""
    return FROM_TABLES.get(metric.__name__) or FROM_ROWS.get(metric.__name__)
