"""The plane of vowels, which the experts of 1991 and the soft ones of 2002 divide."""

import altair as alt
import pandas as pd

from moeviz.charts import theme

FORMANTS = ("first formant F1, kHz", "second formant F2, kHz")


def formant_plane(frame: pd.DataFrame, axes: tuple[str, str] = FORMANTS, kind: str = "vowel") -> alt.LayerChart:
    """Samples and experts' lines over two formants. Columns: those of 1991's `decision_lines`.

    `axes` are what f1 and f2 are, and `kind` is what `vowel` says, where the samples are of another kind.
    """
    samples, lines, borders = (frame[frame["what"] == what].drop(columns="what") for what in ("sample", "line", "gate"))
    experts = sorted(int(expert) for expert in frame["expert"].unique())
    colour = alt.Color(
        "expert:N",
        scale=alt.Scale(domain=experts, range=[theme.EXPERT_COLOURS[e % len(theme.EXPERT_COLOURS)] for e in experts]),
        legend=alt.Legend(title="expert", orient="top"),
    )
    x = alt.X("f1:Q", title=axes[0], scale=alt.Scale(zero=False))
    y = alt.Y("f2:Q", title=axes[1], scale=alt.Scale(zero=False))
    points = (
        alt.Chart(samples)
        .mark_point(size=36, opacity=0.8)
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape("vowel:N", legend=alt.Legend(title=kind, orient="top")),
            tooltip=[
                alt.Tooltip("vowel:N", title=kind),
                alt.Tooltip("f1:Q", title=axes[0], format=".2f"),
                alt.Tooltip("f2:Q", title=axes[1], format=".2f"),
                alt.Tooltip("expert:Q", title="goes to expert", format="d"),
                alt.Tooltip("right:N", title="classified correctly"),
            ],
        )
    )
    strokes = alt.Chart(lines).mark_line(strokeWidth=3).encode(x=x, y=y, color=colour)
    gate = (
        alt.Chart(borders)
        .mark_line(strokeWidth=3, color=theme.CHANCE, strokeDash=list(theme.DASH))
        .encode(x=x, y=y, detail="line:N", tooltip=alt.Tooltip("line:N", title="the gate is undecided between"))
    )
    return theme.framed(points + strokes + gate, theme.MEDIUM + 60)
