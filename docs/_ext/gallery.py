"""The gallery: every chart there is, drawn by running the code that stands beside it."""

from collections.abc import Iterator, Mapping
from functools import cache
from inspect import signature
from typing import Any

from _ext import history_charts, pictures
from _ext.docstrings import markdown_of
from _ext.pictures import picture
from moeviz.charts import TOPICS
from moeviz.charts.balance import BALANCE as SHARED
from moeviz.charts.chart import Chart
from moeviz.charts.comparison import COMPARISONS, CONTRAST
from moeviz.charts.contribution import CONTRIBUTION
from moeviz.charts.effect import DIRECT, EFFECT, WORD_CHANGE
from moeviz.charts.engine_difference import CHARTS as OF_ENGINES
from moeviz.charts.expert import ATLAS, COMPANY, FLOW, KINDS, LOADS, ROWS, TOKENS, WEIGHTS
from moeviz.charts.lineage import FATES, GRID
from moeviz.charts.load import OVER_TIME
from moeviz.charts.multi_trace import CHARTS as OF_SEVERAL
from moeviz.charts.multi_trace import SATURATION
from moeviz.charts.overview import WHOLE_TRACE, described
from moeviz.charts.pruning import COST
from moeviz.charts.pruning import KINDS as PAYS
from moeviz.charts.routes import GAINS, MAP, RANKS, ROUTES, STAKE, WELL, WHOSE
from moeviz.charts.serving import BATCH, CACHE, FITS, MEMORY, PLANE, PREFETCH
from moeviz.charts.training import AUX, BALANCE, CHANGE, EFFECTIVE, GRADIENTS, HEALTH, HEATMAP, IMPORTANCE, LOGITS, LOSS
from moeviz.report.plots import about, choices, part_of

PROMPT = '''\
PROMPT = """The letter said: « Nous partons demain matin. » Er antwortete: Ich komme mit.
def total(prices):
    return sum(prices)
12 + 30 = 42
"""
'''
VIEW = f"""\
import moeviz

{PROMPT}
view = moeviz.view("embedded", PROMPT, max_new_tokens=24)
view.save("view.html")  # a notebook shows `view` by itself
"""
TRACES = f"""\
import moeviz
from moeviz.embedded.recorded_routing import traces_over_training

{PROMPT}\
model = moeviz.load_model()
trace = moeviz.trace(model, PROMPT, max_new_tokens=24)
*_, labelled = traces_over_training().values()  # 60 texts of 15 kinds: a trace that ships
"""
CHANGED = """\
result = moeviz.what_if(model, PROMPT, moeviz.Mute({3: (1, 4)}))
plain, changed = result.plain, result.changed
parts = moeviz.direct_attribution(model, PROMPT, 4)
"""
CONTRASTED = """\
from moeviz.metrics.contrast import texts_of_label

pair = tuple(texts_of_label(labelled, kind) for kind in ("French", "German"))
"""
SERVED = """\
from moeviz.capture.models.kv_cache import served_model

mixtral = served_model("mistralai/Mixtral-8x7B-v0.1")  # its configuration ships; nothing is loaded
"""
ROUTERS = """\
from moeviz.capture.routers.geometry import router_geometry

rows = router_geometry(model.model)
"""
CUT = """\
from pathlib import Path
from tempfile import mkdtemp

from safetensors.torch import load_file, save_file

from moeviz.embedded import embedded_path

child, path = {}, Path(mkdtemp(), "child.safetensors")  # the experts in reverse, without the first
for name, values in load_file(embedded_path() / "model.safetensors").items():
    before, expert, after = name.partition(".experts.")
    if expert and after[0] != "0":
        child[f"{before}.experts.{7 - int(after[0])}{after[1:]}"] = values
save_file(child, path)
lineage = moeviz.lineage("embedded", str(path)).table
"""
PRUNED = """\
from moeviz.labelled_texts import texts_that_ship

texts = texts_that_ship()[::2]
pruned = moeviz.pruning_curve(model, texts, cuts=(1, 2), criteria=("reap", "random"), draws=2, tokens=16)
losses = pruned.losses
"""
TABLE = """\
from moeviz.embedded.recorded_routing import expert_table_of

experts = expert_table_of("embedded")  # of the texts that ship; `expert_table(trace)` makes it of a trace with outputs
"""
ROUTED = """\
from moeviz.metrics import expert_map

mapped = expert_map(labelled)
regret = moeviz.route_regret(model, [("French", "Il fait froid à Paris."), ("Python", "def total(prices):")])
"""
TRAINED = """\
from moeviz.training.reading import example_runs

runs = example_runs()  # a pair that ships: the same tiny model with its aux loss, and without
run = runs["aux-off"]
"""
LAYER, TOKEN, EXPERT = 3, 4, 1
OF_LABELS = "Specialization"  # the topic that is about a labelled trace
BESIDE: Mapping[Chart, str] = {
    WHOLE_TRACE: "labelled",
    SHARED: "labelled",
    OVER_TIME: "labelled",
    SATURATION: "traces_over_training()",
    EFFECT: "result.effect",
    CONTRAST: "pair",
    **dict.fromkeys((*COMPARISONS, *OF_ENGINES, WORD_CHANGE), "(plain, changed)"),
    DIRECT: "parts, 3",
    **dict.fromkeys(OF_SEVERAL, 'dict(zip("ABC", list(traces_over_training().values())[::4], strict=True))'),
    **dict.fromkeys((CACHE, BATCH, PREFETCH, PLANE), "labelled"),
    MEMORY: "mixtral, 'RTX 4090'",
    FITS: "mixtral",
    FATES: "lineage",
    CONTRIBUTION: "experts",
    COST: "losses",
    MAP: "mapped",
    **dict.fromkeys((STAKE, WELL, WHOSE), "regret"),
    ROUTES: "regret, 0, 2, 3",
    **dict.fromkeys((RANKS, GAINS), "regret.cells, 'layer'"),
    PAYS: "losses[losses['cut'] == 1]",
    GRID: "lineage[lineage['layer'] == 3]",
    **dict.fromkeys((HEATMAP, IMPORTANCE), "run, 1"),
    **dict.fromkeys((HEALTH, GRADIENTS), "run"),
    **dict.fromkeys((BALANCE, EFFECTIVE, LOSS, AUX, LOGITS, CHANGE), "runs"),
}
OF_ONE_EXPERT: Mapping[Chart, str] = {
    **dict.fromkeys((LOADS, TOKENS, KINDS, COMPANY, FLOW, ATLAS), "labelled"),
    WEIGHTS: "trace",
    ROWS: "rows",
}


@cache
def made() -> dict[str, Any]:
    """The names that the example code makes, by running it."""
    names: dict[str, Any] = {}
    exec(TRACES + CHANGED + CONTRASTED + SERVED + ROUTERS + CUT + TABLE + PRUNED + ROUTED + TRAINED, names)
    return names


def topics() -> str:
    """All charts of one trace, topic by topic."""
    return "\n\n".join([_code(TRACES), *(part for topic in TOPICS for part in _topic(topic))])


def _topic(topic: str) -> Iterator[str]:
    name = "labelled" if topic == OF_LABELS else "trace"
    trace = made()[name]
    chosen = choices(trace, LAYER, None, TOKEN)
    yield f"## {topic}"
    yield _code(call(name, topic))
    for chart in TOPICS[topic]:
        frame = chart.measure(part_of(trace, chart, chosen))
        yield entry(chart, frame, about(trace, chart, chosen))


def call(name: str, topic: str) -> str:
    """The code that draws a topic."""
    method = f"{name}.plot.{topic.lower().replace('-', '_')}"
    return f"{method}(layer={LAYER}, token={TOKEN})" if topic == "Tokens" else f"{method}(layer={LAYER})"


def beside() -> str:
    """The charts of several traces, of a change, of a training, of serving, and of a long trace as a whole."""
    parts = [_code(f"{TRACES}\n{CHANGED}\n{CONTRASTED}\n{SERVED}\n{CUT}\n{TABLE}\n{PRUNED}\n{ROUTED}\n{TRAINED}")]
    for chart, of in BESIDE.items():
        given = eval(of, made())
        several = chart in (HEATMAP, IMPORTANCE, MEMORY, DIRECT, ROUTES, RANKS, GAINS)
        frame = chart.measure(*given) if several else chart.measure(given)
        parts.append(entry(described(frame) if chart is WHOLE_TRACE else chart, frame, of=of, level="##"))
    return "\n\n".join(parts)


def one_expert() -> str:
    """The charts of one expert, which are on its page in the app."""
    parts = [_code(f"{TRACES}\n{ROUTERS}")]
    for chart, of in OF_ONE_EXPERT.items():
        parts.append(entry(chart, chart.measure(made()[of], LAYER, EXPERT), of=of, level="##"))
    return "\n\n".join(parts)


def view() -> str:
    """The code that draws the example trace, and what it draws, in a frame: its page lies beside the pictures."""
    pictures.write("view.html", made()["moeviz"].view(made()["trace"]).html)
    shown = '<iframe class="view" src="../pictures/view.html" title="Routing of the example trace"></iframe>'
    return f"{_code(VIEW)}\n\n{shown}"


def history() -> str:
    """The pictures of the systems that came before, drawn from the results that ship."""
    parts = []
    for heading, charts in history_charts.by_system():
        parts += [f"## {heading}", *(entry(chart, frame) for chart, frame in charts)]
    return "\n\n".join(parts)


def entry(chart: Chart, frame: Any, part: str = "", of: str = "", level: str = "###") -> str:
    """One chart: its question, its picture, how to read it, how it is computed, and where in the code."""
    by_page = "dark" in signature(chart.draw).parameters  # its colours are others on a dark page
    dark = chart.draw(frame, dark=True) if by_page else None  # type: ignore[call-arg]
    drawn = picture(chart.draw(frame), chart.key, f"{chart.question} {chart.reading}", dark)
    code = f"`{chart.measure.__module__}.{chart.measure.__name__}`, drawn by `{chart.draw.__name__}`"
    what = f" of `{of}`" if of else ""
    return (
        f"{level} {chart.question}\n\n{drawn}\n\n{part}{chart.reading}\n\n"
        f"<details><summary>How is this computed?</summary>\n\n{markdown_of(chart.method)}\n\n"
        f"In the code: {code}{what}.\n\n</details>"
    )


def _code(text: str) -> str:
    return f"```python\n{text.rstrip()}\n```"
