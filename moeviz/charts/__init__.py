"""The app's table of contents: one topic a page, its charts in the order shown."""

from moeviz.charts import (
    confidence,
    cooperation,
    coverage,
    flow,
    layers,
    load,
    losses,
    parameters,
    placement,
    repetition,
    specialization,
    tokens,
    vocabulary,
)
from moeviz.charts.chart import Chart

TOPICS: dict[str, tuple[Chart, ...]] = {
    "Tokens": tokens.CHARTS,
    "Load": load.CHARTS,
    "Specialization": specialization.CHARTS + vocabulary.CHARTS,
    "Cooperation": cooperation.CHARTS,
    "Confidence": confidence.CHARTS,
    "Repetition": repetition.CHARTS,
    "Losses": losses.CHARTS,
    "Layers": layers.CHARTS,
    "Flow": flow.CHARTS,
    "Parameters": parameters.CHARTS,
    "Coverage": coverage.CHARTS,
    "Placement": placement.CHARTS,
}
