"""The exhibit of dense contrast: loss against parameters at the same compute, and memory against compute."""

from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from moeviz.charts import NAMED, theme
from moeviz.charts.parameters import written
from moeviz.history.dense_contrast.decoder import MIXTRAL_8X7B, cost
from moeviz.history.dense_contrast.model import KINDS, DecoderRun, sizes_of, trace_of, train
from moeviz.history.shared.exhibit import Exhibit, Page, PageControl, words_beside
from moeviz.history.shared.results import shipped

TEXT = words_beside(__file__)
SEEDS = (0, 1, 2)
SWEEP = Path(__file__).with_name("sweep.csv")
PAYOFF_TABLE = Path(__file__).with_name("payoff.csv")
HERE, REAL = "trained here", "Mixtral 8x7B"
THIS_RUN, OTHERS = "the run on this page", "runs that ship"


def memory_against_compute(result: DecoderRun) -> pd.DataFrame:
    """Memory and compute of a mixture and its dense twins: those trained here, and those of Mixtral 8x7B.

    Memory depends on all parameters, compute on those that work on one word (active: K of E experts in each layer, and
    everything else, including embeddings). Both are counted from the modules of a decoder of these sizes, which for
    Mixtral 8x7B are created without allocating memory. Both are given as shares of the parameters of the mixture. A
    dense network uses all its parameters for every word, so its shares are equal.

    One row per network and kind. Columns: network str (trained here, or Mixtral 8x7B) · kind str (sparse, as fast, as
    large) · total, active int64 (parameters) · multiply_adds int64 (for one word, by matrices; attention between words
    is not counted) · memory, compute float64 (total and active, as shares of the total of the network's mixture).

    Source: Jiang et al. (arXiv 2401.04088), section 2.1: "sparse" and "active parameter count".
    """
    ours = sizes_of(result.settings["experts"], result.settings["top_k"])
    rows = []
    for network, sizes in {HERE: ours, REAL: MIXTRAL_8X7B}.items():
        whole = cost(sizes).total
        for kind, of in KINDS.items():
            counted = cost(of(sizes))
            counts = {"total": counted.total, "active": counted.active, "multiply_adds": counted.multiply_adds}
            shares = {"memory": counted.total / whole, "compute": counted.active / whole}
            rows.append({"network": network, "kind": kind} | counts | shares)
    return pd.DataFrame(rows).astype({"network": "str", "kind": "str"})


def shipped_sweep() -> pd.DataFrame:
    """Runs of each kind with the default settings, from each of three seeds.

    One row per run and recorded step. Columns: kind str · seed int64 · step int64 · perplexity float64 (on held-out
    words).
    """
    return pd.read_csv(SWEEP)


def perplexity_by_step(result: DecoderRun, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the perplexity of the next held-out word during training: one run, and a sweep over all kinds.

    Perplexity is e to the power of the mean loss in nats over all held-out words, each given those before it in its
    sequence of 48; lower is better. Step 0, before training, is left out.

    One row per run and recorded step. Columns: run str (the run on this page, or runs that ship) · kind str · seed
    int64 · step int64 · perplexity float64.

    Source: the measure of Jelinek, Mercer, Bahl & Baker (1977); the comparison is our own.
    """
    frame = pd.concat([runs.assign(run=OTHERS), curve_of(result).assign(run=THIS_RUN)], ignore_index=True)
    frame = frame.loc[frame["step"] > 0, ["run", "kind", "seed", "step", "perplexity"]]
    return frame.reset_index(drop=True).astype({"run": "str", "kind": "str"})


def curve_of(result: DecoderRun) -> pd.DataFrame:
    """Return the perplexity of a run at each recorded step. Columns: those of `shipped_sweep`."""
    steps = {"step": np.array(result.recorded, np.int64), "perplexity": result.perplexity}
    return pd.DataFrame({"kind": result.settings["kind"], "seed": result.settings["seed"]} | steps)


def payoff_runs() -> pd.DataFrame:
    """Return the runs that ship, a row a model: small models trained on the text of the embedded one.

    `python -m models.training.payoff` trains them; their figures ship, their weights do not.

    Columns: experts int64 (1 is the dense model) · seed int64 · tokens int64 (read in training) · parameters, active
    int64 (in all, and at work for a token; routers aside) · nats float64 (held-out loss of a token, mean over 15
    domains) · bits_per_byte float64.
    """
    return pd.read_csv(PAYOFF_TABLE)


def loss_by_parameters(runs: pd.DataFrame) -> pd.DataFrame:
    """Held-out loss of models that compute the same for a token, by how many experts each chooses two from.

    `runs` is what `payoff_runs` returns. One row a run. Columns: those of `payoff_runs` · mean, spread float64 (of nats
    over the seeds of as many experts; spread is the largest less the smallest) · gain float64 (how far that mean is
    below the dense model's, in nats).

    Source: Shazeer et al. (arXiv 1701.06538), figure 2 (test perplexity of mixtures of equal compute); the comparison
    at this size is our own.
    """
    nats = runs.groupby("experts")["nats"]
    mean = nats.transform("mean")
    dense = runs.loc[runs["experts"] == 1, "nats"].mean()
    return runs.assign(mean=mean, spread=nats.transform("max") - nats.transform("min"), gain=dense - mean)


def payoff_words(frame: pd.DataFrame) -> str:
    """Sum up the figures of `loss_by_parameters` in words.

    Two experts hold what the dense model holds and are both computed: what they gain is not due to more parameters.
    """
    of, noise = frame.groupby("experts").first(), frame["spread"].max()
    largest, dense, two = of.iloc[-1], of.loc[1], of.loc[2, "mean"]
    more = two - largest["mean"]
    return (
        f"All compute with {_millions(dense['active'])} parameters for a token and read the same "
        f"{_millions(dense['tokens'])} tokens, with {frame['seed'].nunique()} seeds each. The model with "
        f"{largest.name} experts holds {_millions(largest['parameters'])}, at {largest['mean']:.3f} nats per token "
        f"against {dense['mean']:.3f} of the dense one; seeds differ by at most {noise:.3f}. Two experts, which hold "
        f"what the dense one holds and are both computed, come to {two:.3f}. What more parameters add is {more:.3f}, "
        f"{'less' if abs(more) <= noise else 'more'} than seeds make."
    )


def _millions(count: float) -> str:
    return f"{count / 1e6:.3g} million"


MEMORY = "memory: all parameters, share of the mixture's"
TICKS = [40, 50, 60, 70, 80, 100, 120, 150, 200, 300, 500, 1000]
SHAPES = ("circle", "triangle-left", "triangle-up")
BELOW = {"sparse": "right", "as fast": "center"}  # which kinds have their numbers under their mark, and how aligned


def memory_compute_triangle(frame: pd.DataFrame) -> alt.LayerChart:
    """Total against active parameters of a mixture and its twins, twice. Columns: those of `memory_against_compute`."""
    numbers = {f"{name}_text": frame[name].map(written) for name in ("total", "active", "multiply_adds")}
    stroke = {"orient": "bottom", "symbolFillColor": theme.NOTE, "symbolStrokeColor": theme.NOTE}
    base = alt.Chart(frame.assign(**numbers)).encode(
        x=alt.X("memory:Q", title=MEMORY, scale=_whole(), axis=theme.share_axis()),
        y=alt.Y("compute:Q", title="compute: active parameters", scale=_whole(), axis=theme.share_axis()),
        color=_colour("network", (HERE, REAL), theme.PAIR),
    )
    dots = base.mark_point(filled=True, size=140, opacity=1).encode(
        shape=theme.named(alt.Shape, "kind", KINDS, SHAPES, **stroke),
        tooltip=theme.tooltip(
            network="",
            kind="",
            total_text=("parameters", ""),
            active_text=("active for one word", ""),
            multiply_adds_text=("multiply-adds for one word", ""),
            memory=("memory, share of the mixture's", ".1%"),
            compute=("active, share of the mixture's parameters", ".1%"),
        ),
    )
    says = "dense networks: all parameters are active"
    dense = theme.diagonal(says, fields=("memory", "compute"), color=theme.NOTE)
    return theme.framed(alt.layer(dense, _twins(frame), dots, *_sizes(base)), theme.MEDIUM + 40)


def _twins(frame: pd.DataFrame) -> alt.Chart:
    """Connect each mixture to the network as fast, on the left, and to the one as large, above."""
    mixtures = frame[frame["kind"] == "sparse"].set_index("network")[["memory", "compute"]]
    twins = frame[frame["kind"] != "sparse"].join(mixtures.add_prefix("mixture_"), on="network")
    return (
        alt.Chart(twins)
        .mark_rule(strokeWidth=2, opacity=0.6)
        .encode(
            x=alt.X("memory:Q"),
            x2="mixture_memory:Q",
            y=alt.Y("compute:Q"),
            y2="mixture_compute:Q",
            color=_colour("network", (HERE, REAL), theme.PAIR),
        )
    )


def _sizes(base: alt.Chart) -> list[alt.Chart]:
    """Write under a mixture its active and all parameters, and under its fast twin its number."""
    words = {"sparse": "datum.active_text + ' of ' + datum.total_text", "as fast": "datum.total_text"}
    return [
        base.transform_filter(f"datum.kind == '{kind}'")
        .transform_calculate(words=words[kind])
        .mark_text(align=align, baseline="top", dy=10, fontWeight="bold")
        .encode(text="words:N")
        for kind, align in BELOW.items()
    ]


def perplexity_lines(frame: pd.DataFrame) -> alt.LayerChart:
    """Return one line per run, in the colour of its kind. Columns: those of `perplexity_by_step`."""
    base = alt.Chart(frame).encode(
        x=alt.X("step:Q", title="training step", axis=alt.Axis(format=",d", tickCount=6)),
        y=alt.Y(
            "perplexity:Q",
            title="perplexity on held-out words",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(values=TICKS, format="d"),
        ),
        color=_colour("kind", tuple(KINDS), (*theme.PAIR, theme.OTHER)),
        detail="seed:N",
        tooltip=theme.tooltip(run="", kind="", seed="d", step=",d", perplexity=".1f"),
    )
    others = base.transform_filter(f"datum.run == '{OTHERS}'").mark_line(strokeWidth=1.5, opacity=0.8)
    mine = base.transform_filter(f"datum.run == '{THIS_RUN}'").mark_line(
        strokeWidth=4, point=alt.OverlayMarkDef(size=50)
    )
    return theme.framed(others + mine, theme.MEDIUM)


def payoff_curve(frame: pd.DataFrame) -> alt.LayerChart:
    """Draw one point per run, a line through the means of the mixtures, and a rule at the dense model's mean.

    Columns: those of `loss_by_parameters`.
    """
    says = frame["experts"].map(lambda count: "dense" if count == 1 else f"{count} experts")
    kind = says.where(says == "dense", "mixture")
    base = alt.Chart(frame.assign(model=says, kind=kind, millions=frame["parameters"] / 1e6)).encode(
        x=alt.X(
            "millions:Q",
            title="parameters in all, millions",
            scale=alt.Scale(type="log", nice=False, padding=40),
            axis=alt.Axis(values=sorted(set((frame["parameters"] / 1e6).round(2))), format=".1f"),
        ),
        color=theme.colour("kind", ["mixture", "dense"], theme.PAIR).legend(None),
    )
    runs = base.mark_point(filled=True, size=60, opacity=0.7).encode(
        y=alt.Y("nats:Q", title="held-out loss, nats per token", scale=alt.Scale(zero=False, nice=True, padding=24)),
        tooltip=theme.tooltip(
            model="",
            seed="d",
            parameters=",d",
            active=("at work for a token", ",d"),
            nats=("nats per token", ".3f"),
            bits_per_byte=("bits a byte", ".3f"),
        ),
    )
    once = base.transform_filter(f"datum.seed == {int(frame['seed'].min())}").encode(y="mean:Q")
    line = once.transform_filter("datum.experts > 1").mark_line(strokeWidth=2)
    rule = once.transform_filter("datum.experts == 1").encode(x=alt.value(0), x2=alt.value("width"))
    dense = rule.mark_rule(strokeDash=list(theme.DASH), strokeWidth=2)
    return theme.framed(alt.layer(dense, line, runs, *_named_models(base)), theme.MEDIUM)


def _named_models(base: alt.Chart) -> list[alt.Chart]:
    """Name each model: a mixture under its best run, the dense one over its worst."""
    best = base.transform_filter("datum.experts > 1").mark_text(baseline="top", dy=9, fontWeight="bold")
    worst = base.transform_filter("datum.experts == 1").mark_text(baseline="bottom", dy=-9, fontWeight="bold")
    name = {"text": "model:N", "detail": "model:N"}
    return [best.encode(y="min(nats):Q", **name), worst.encode(y="max(nats):Q", **name)]


def _whole() -> alt.Scale:
    return alt.Scale(domain=[0, 1.04], nice=False)


def _colour(field: str, values: tuple[str, ...], colours: tuple[str, ...]) -> alt.Color:
    return theme.colour(field, values, colours, symbolOpacity=1)


MEMORY_COMPUTE = TEXT.chart(memory_against_compute, memory_compute_triangle)
PERPLEXITY = TEXT.chart(perplexity_by_step, perplexity_lines)
PAYOFF = TEXT.chart(loss_by_parameters, payoff_curve)


def picture(page: Page, result: DecoderRun) -> None:
    """Draw memory against compute: of this run, of its twins, and of Mixtral."""
    page.chart(MEMORY_COMPUTE, result)


def details(page: Page, result: DecoderRun) -> None:
    """Draw the two sizes, the perplexity of all kinds, and the gain from more experts."""
    sizes = result.cost
    counts = {"Parameters": sizes.total, "Active": sizes.active, "Multiply-adds": sizes.multiply_adds}
    exact = {"total": f"{sizes.total:,}", "active": f"{sizes.active:,}", "multiply_adds": f"{sizes.multiply_adds:,}"}
    page.figures(TEXT.figures(counts | {"Perplexity": f"{result.perplexity[-1]:.1f}"}, **exact))
    page.chart(PERPLEXITY, result, shipped_sweep())
    page.chart(PAYOFF, payoff_runs())
    page.text(payoff_words(loss_by_parameters(payoff_runs())))


EXHIBIT = Exhibit(
    choices=(
        PageControl("kind", "Kind", tuple(KINDS), kind="list", width=140),
        PageControl("experts", "Experts", (4, 8, 16), 8, width=140),
        PageControl("top_k", "Experts per word", (2, 4), 2, width=160),
    ),
    train=train,
    trace_of=trace_of,
    picture=picture,
    details=details,
    charts=(
        (PAYOFF, lambda: (payoff_runs(),)),
        (MEMORY_COMPUTE, lambda: (shipped(DecoderRun),)),
        (PERPLEXITY, lambda: (shipped(DecoderRun), shipped_sweep())),
    ),
    trace_charts=(NAMED["parameters_by_part"],),
)
