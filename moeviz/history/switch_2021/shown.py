"""Its charts, each with what it is drawn from: the result that ships, trained with the default settings."""

from moeviz.history.shared.results import shipped
from moeviz.history.switch_2021.chart import DROP_RATES, DROPPED_BY_PLACE, EXPERT_QUEUES
from moeviz.history.switch_2021.model import Switch
from moeviz.history.switch_2021.picture import shipped_sweep

SHOWN = (
    (EXPERT_QUEUES, lambda: (shipped(Switch),)),
    (DROP_RATES, lambda: (shipped(Switch), shipped_sweep())),
    (DROPPED_BY_PLACE, lambda: (shipped(Switch),)),
)
