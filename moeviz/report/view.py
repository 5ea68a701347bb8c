"""A trace to click through, as one piece of HTML: the strip of its tokens and the map of token by layer, linked.

It needs no server and fetches nothing: Vega, which draws the map, travels in it (packed, 0.4 MB), and its
Content-Security-Policy forbids the rest. Token texts and names are a stranger's: in it they are packed data that
`view.js` puts into text nodes, or escaped.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Hashable
from functools import cache, cached_property
from html import escape
from pathlib import Path
from typing import Any

from moeviz.charts import NAMED, theme
from moeviz.charts.token_layer_map import CELLS, cells_of, facts_of, images_of, map_of
from moeviz.charts.token_layer_marks import map_height
from moeviz.errors import MoevizError
from moeviz.metrics.inputs import check_recorded
from moeviz.metrics.tokens import PART_OF_CHARACTER, token_choices, visible
from moeviz.metrics.words import layer_word
from moeviz.report.notebook import caution, safe
from moeviz.report.pictures import VEGA_LITE, installed
from moeviz.report.plots import with_data_inside
from moeviz.routing_trace import RoutingTrace
from moeviz.whole_files import write_file

HERE = Path(__file__).parent
MAX_CELLS = 16_384  # of more, a browser needs seconds for the first picture
MOST_LINE_BREAKS = 2  # in a row: blank lines say nothing about routing
LONGEST = 300  # characters of a token
AROUND, LINE = 215, 29  # pixels of all but the strip and the map, and of a line of the strip
MOST_LINES, LETTERS_A_LINE = 18, 75  # of the strip in a notebook
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
TOO_OLD = "This view is drawn by JavaScript, in browsers from 2023 on."


class View:
    """A trace as a page to click through: shown by a notebook, or saved as a file that any browser opens.

    Raises `MoevizError` for a trace without tokens, for one that is too large to draw, and if vl-convert-python,
    which brings Vega, is not installed.

        >>> from moeviz.testing import sample_trace
        >>> View(sample_trace(tokens=20))
        <View of 20 tokens through 'sample': open it in a notebook, or .save("view.html")>
    """

    def __init__(self, trace: RoutingTrace) -> None:
        _check(trace)
        self.trace = trace

    def __repr__(self) -> str:
        what = f"{_number(len(self.trace.tokens), 'token')} through {visible(self.trace.model.name)!r}"
        return f'<View of {what}: open it in a notebook, or .save("view.html")>'

    @cached_property
    def html(self) -> str:
        """The whole page. It needs nothing but a browser."""
        return _page(self.trace)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, and return its path."""
        path = Path(path)
        write_file(path, self.html)
        return path

    def _repr_html_(self) -> str:
        """Show the page in a frame: some notebooks run no script of an output itself, and none may touch its styles."""
        name = f"Routing of {visible(self.trace.model.name)}"
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" title="{escape(name)}" '
            f'style="width: 100%; height: {_height(self.trace)}px; border: 0"></iframe>'
        )


def _check(trace: RoutingTrace) -> None:
    layers, tokens, most = len(trace.model.layers), len(trace.tokens), most_tokens(trace)
    check_drawable(trace)
    if tokens > most:
        raise MoevizError(
            f"A view shows {most} tokens at most where a model has {layers} MoE layers, and this trace has {tokens:,}. "
            f"Choose a stretch of it: moeviz.view(trace.select(tokens=slice(0, {most})))."
        )


def most_tokens(trace: RoutingTrace) -> int:
    """Return how many tokens of such a trace one view draws."""
    return max(1, min(theme.MAX_TOKENS, MAX_CELLS // len(trace.model.layers)))


def check_drawable(trace: RoutingTrace) -> None:
    """Raise `MoevizError` for a trace that no view can be drawn of, however short a stretch, or without Vega."""
    if not len(trace.tokens):
        raise MoevizError("This trace holds no tokens, so there is nothing to draw.")
    check_recorded(trace)
    trace.first_choices("A view")
    if not installed():
        raise MoevizError('A view needs vl-convert-python, which brings Vega: `pip install "moeviz[notebook]"`.')


def _height(trace: RoutingTrace) -> int:
    """Estimate the pixels of a frame that shows the whole page, since no script may ask it; a longer strip scrolls."""
    text, tokens = trace.tokens["text"], len(trace.tokens)
    letters, breaks = int(text.str.len().sum()) + 3 * tokens, int(text.str.count("\n").sum())
    lines = min(MOST_LINES, -(-letters // LETTERS_A_LINE) + breaks) + bool(trace.model.caution)
    return AROUND + LINE * lines + map_height(len(trace.model.layers))


def _page(trace: RoutingTrace) -> str:
    scripts = (
        f'<script type="text/plain" id="vega">{_packed_vega()}</script>\n'
        f'<script type="text/plain" id="data">{_pack(data_of(trace))}</script>\n'
        f'<script type="module">{file("view.js")}</script>'
    )
    return document(trace, POLICY, f"<style>{file('view.css')}</style>", scripts)


def document(trace: RoutingTrace, policy: str, head: str, scripts: str, instead: str = TOO_OLD, more: str = "") -> str:
    """Return the HTML around a view: `head` and `scripts` bring its style, its data and what draws it.

    `instead` stands where no script has run, and `more` under the map, after what it says on its own.
    """
    name = safe(trace.model.name)
    missing = "" if trace.recorded.all() else " Pale cells, and hatched tokens with a ?, are not recorded."
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"{head}<title>Routing of {name}</title></head><body>",
        f"<header><h1>{name}</h1> <span>{safe(_facts(trace))}</span>{caution(trace)}</header>",
        f'<main aria-busy="true"><p class="waiting">{instead}</p></main>',
        f"<footer>{NAMED['token_layer_map'].reading}{missing}{more}</footer>",
        f"{scripts}</body></html>\n",
    ]
    return "\n".join(parts)


def _facts(trace: RoutingTrace) -> str:
    model = trace.model
    counts = sorted({min(model.num_experts), max(model.num_experts)})
    layers = _number(len(model.layers), f"MoE {layer_word(model)}")
    return (
        f"{_number(len(trace.tokens), 'token')} · {layers} · top-{model.top_k} of {'–'.join(map(str, counts))} experts"
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def data_of(trace: RoutingTrace) -> str:
    """Return the trace as JSON for `view.js`. Layers and tokens go by place; -1: no expert, -2: not recorded."""
    model, weights = trace.model, trace.weights
    first = trace.first_choices("A view")
    focus = [theme.focus(experts) for experts in first]
    data = {
        "chart": _chart(trace),
        "tokens": _tokens(trace),
        "layers": list(model.layers),
        "word": layer_word(model),
        "experts": trace.experts.tolist(),
        "weights": None if weights is None else weights.astype(float).round(3).tolist(),
        "colours": [theme.expert_colours(count, own) for count, own in zip(model.num_experts, focus, strict=True)],
        "focus": focus,
        "other": theme.OTHER,
    }
    return json.dumps(data)


def _chart(trace: RoutingTrace) -> dict[str, Any]:
    frame = token_choices(trace)
    facts = facts_of(frame)
    images = images_of(frame, facts)
    cells = cells_of(frame)[CELLS].iloc[: 0 if images else None]
    spec: dict[str, Any] = with_data_inside(map_of(facts, cells, images)).to_dict()
    return spec


def _tokens(trace: RoutingTrace) -> list[dict[Hashable, Any]]:
    tokens = trace.tokens[["text", "position", "phase"]].astype({"phase": "str"}).assign(mark=_marks(trace))
    return [
        row
        | {
            "text": visible(row["text"][:LONGEST]) + "…" * (len(row["text"]) > LONGEST),
            "part": PART_OF_CHARACTER.fullmatch(row["text"]) is not None,
            "breaks": min(row["text"].count("\n"), MOST_LINE_BREAKS),
        }
        for row in tokens.to_dict("records")
    ]


def _marks(trace: RoutingTrace) -> list[str]:
    """Return a mark for each token: where the next of several texts or generation begins; usually none."""
    sequence, phase = trace.tokens["sequence"], trace.tokens["phase"].astype("str")
    begins = sequence != sequence.shift()
    generated = (phase == "generated") & (begins | (phase.shift() == "prompt"))
    texts = [f"text {number + 1}" if sequence.nunique() > 1 else "" for number in sequence]
    return [
        text if first and text else "generated" if now else ""
        for text, first, now in zip(texts, begins, generated, strict=True)
    ]


@cache
def vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # its stub wants a snippet
    return bundle


@cache
def _packed_vega() -> str:
    return _pack(vega())


def _pack(text: str) -> str:
    """Compress the page into characters that no page and no attribute interprets."""
    return b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def file(name: str) -> str:
    """Return a file of this folder."""
    return (HERE / name).read_text("utf-8")
