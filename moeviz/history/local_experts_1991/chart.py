"""The chart of the 1991 paper. Not a topic, since a topic is about one trace."""

from moeviz.charts.chart import Chart
from moeviz.history.local_experts_1991.picture import decision_lines
from moeviz.history.shared.chart import formant_plane

DECISION_LINES = Chart(
    "How do the experts divide the plane?",
    "Each mark is one spoken vowel, in the colour of the expert that the gate gives it to, and each line is where "
    "that expert's answer changes. The dashed line is where the gate switches from one expert to the other; an expert "
    "without a mark has been given up.",
    measure=decision_lines,
    draw=formant_plane,
)
