"""The app's table of contents: one topic a page, its charts in the order shown."""

from moeviz.charts import confidence, layers, load, parameters, specialization, tokens
from moeviz.charts.chart import Chart

TOPICS: dict[str, tuple[Chart, ...]] = {
    "Tokens": tokens.CHARTS,
    "Load": load.CHARTS,
    "Confidence": confidence.CHARTS,
    "Parameters": parameters.CHARTS,
    "Layers": layers.CHARTS,
    "Specialization": specialization.CHARTS,
}
