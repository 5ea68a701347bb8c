"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.shared.results import shipped
from moeviz.history.sparsely_gated_2017.chart import BALANCE_TABLE, BUSIEST_EXPERT
from moeviz.history.sparsely_gated_2017.model import SparselyGated
from moeviz.history.sparsely_gated_2017.picture import shipped_table

SHOWN = (
    (BALANCE_TABLE, lambda: (shipped_table(),)),
    (BUSIEST_EXPERT, lambda: (shipped(SparselyGated),)),
)
