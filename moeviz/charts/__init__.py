"""The app's table of contents: one topic a page, its charts in the order shown."""

from moeviz.charts import (
    co_activation,
    confidence,
    coverage,
    flow,
    layers,
    load,
    locality,
    losses,
    parameters,
    placement,
    serving,
    specialization,
    tokens,
    vocabulary,
)
from moeviz.charts.chart import Chart

TOPICS: dict[str, tuple[Chart, ...]] = {
    "Tokens": tokens.CHARTS,
    "Load": load.CHARTS,
    "Specialization": (specialization.NAMES, *specialization.CHARTS, *vocabulary.CHARTS),
    "Co-activation": co_activation.CHARTS,
    "Confidence": confidence.CHARTS,
    "Locality": locality.CHARTS,
    "Losses": losses.CHARTS,
    "Layers": layers.CHARTS,
    "Flow": flow.CHARTS,
    "Parameters": parameters.CHARTS,
    "Coverage": coverage.CHARTS,
    "Placement": placement.CHARTS,
}

# In addition, the costs of serving, which have a page of their own in the app, with a budget to choose.
REPORTED: dict[str, tuple[Chart, ...]] = TOPICS | {"Serve": serving.OF_TRACES}

NAMED: dict[str, Chart] = {chart.key: chart for charts in TOPICS.values() for chart in charts}
