"""Components of the history: the story, two models that read the same texts, experts that die, and the phone book.

The story is a rail of years, the inputs of each system, and what one of them meets in it; it draws what
`moeviz.history.story` found. Eight experts live or die in the browser, and nothing of it comes back. The phone book is
three networks at equal work, a wall of names that fills as they learn, a rule, and controls; its second component draws
nothing and takes to the server what is asked for: `moeviz:teach` goes to it, and `moeviz:taught` comes from it.
"""

import tomllib
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd

from moeviz.charts import theme
from moeviz.charts.theme import EXPERT_COLOURS
from moeviz.embedded.one_sentence import SHOWN, one_sentence
from moeviz.history.phone_book.runs import FIRST_NAMES, SECOND_NAMES, BookRun
from moeviz.history.story import BRANCHES, INPUTS, SOURCES, STEPS, Half, Meters, Scene, Step, TwinModel
from moeviz.metrics.expert_names import UNNAMED
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import percent
from moeviz_app.widgets.components import base64, component, nothing

COLOURS = theme.EXPERT_COLOURS[:8]  # of more experts, the ninth begins again; all are numbered


PARTS = "token explorer_parts story_parts"  # scripts of both
_story = component("story", "<div class='story'></div>", "controls story", f"{PARTS} story_picture story_inputs story")
_twins = component("twins", "<div class='twins'></div>", "controls story", f"{PARTS} twins")


def story(data: dict[str, Any], key: str) -> str | None:
    """Draw the data of `packed_story`, and return the page that was asked for, if one was."""
    told = _story(data=data, key=key, on_page_change=lambda: None)
    pages = {half["page"] for step in data["steps"] for half in step["halves"]}
    pages |= {branch["page"] for branch in data["branches"]}
    asked = told.get("page")
    return asked if isinstance(asked, str) and asked in pages else None


def twins(data: dict[str, Any], key: str) -> None:
    """Draw the data of `packed_twins`."""
    _twins(data=data, key=key)


def packed_story() -> dict[str, Any]:
    """All steps as the JavaScript reads them; arrays in base64."""
    inputs = {name: made() for name, made in INPUTS.items()}
    return {
        "colours": COLOURS,
        "inputs": {name: made._asdict() | {"drawn": _make_visible(made.drawn)} for name, made in inputs.items()},
        "steps": [_step(step) for step in STEPS],
        "sources": sources(),
        "branches": [
            {name: getattr(branch, name) for name in ("year", "short", "title", "says", "page")} for branch in BRANCHES
        ],
    }


def sources() -> list[dict[str, str]]:
    """Return what the numbers in the story's words stand for, from 1 on."""
    return [{"name": source.name, "address": source.address} for source in SOURCES]


def packed_twins(found: Sequence[TwinModel], kinds: Sequence[str]) -> dict[str, Any]:
    """Return the texts once, and of each twin its choices, names and shares."""
    tokens = found[0].trace.tokens
    return {
        "colours": COLOURS,
        "kinds": list(kinds),
        "words": [visible(text) for text in tokens["text"]],
        "groups": tokens["label"].tolist(),
        "twins": [_twin(twin) for twin in found],
    }


def in_words(shares: tuple[float, float]) -> str:
    """Return a range of shares."""
    low, high = map(percent, shares)
    return f"{low} to {high}"


def _make_visible(drawn: dict[str, Any]) -> dict[str, Any]:
    return drawn | {"words": [visible(word) for word in drawn["words"]]} if "words" in drawn else drawn


def _step(step: Step) -> dict[str, Any]:
    scenes = [half.show() for half in step.halves]
    halves = [_half(half, scene) for half, scene in zip(step.halves, scenes, strict=True)]
    return {
        "year": step.year,
        "title": step.title,
        "before": step.before.format_map(scenes[0].quoted),
        "halves": halves,
    }


def _half(half: Half, scene: Scene) -> dict[str, Any]:
    trace = scene.trace
    words = {name: getattr(half, name).format_map(scene.quoted) for name in ("new", "left", "caption")}
    return words | {
        "name": half.name,
        "page": half.page,
        "added": half.added,
        "router": half.router,
        "answer": half.answer,
        "inputs": scene.inputs,
        "meters": _three_numbers(scene.meters),
        "layers": list(trace.model.layers),
        "counts": list(trace.model.num_experts),
        "slots": trace.experts.shape[2],
        "experts": base64(trace.experts, np.int8),
        "weights": base64(trace.weights, np.float32),
        "drawn": dict(scene.drawn),
    }


def _three_numbers(meters: Meters) -> list[tuple[str, str]]:
    experts = f"{meters.experts}{f' + {meters.shared}' * bool(meters.shared)}"
    return [
        (experts, "expert, if it is one" if meters.experts == 1 else "experts in a layer"),
        (f"{100 * meters.computed:.3g}%", "of them needed for an input"),
        (f"× {meters.parameters:.2g}", "as many weights in experts as an input needs"),
    ]


def _twin(twin: TwinModel) -> dict[str, Any]:
    names = twin.names
    return {
        "title": twin.title,
        "said": f"first choices repeat: {in_words(twin.repeats)}",
        "layers": list(twin.trace.model.layers),
        "first": base64(twin.trace.experts[..., 0], np.int8),
        "shares": base64(twin.shares, np.float32),
        "names": names["name"].where(names["holds"], UNNAMED).tolist(),
        "by": names["by"].where(names["holds"], "").tolist(),
    }


COLLAPSE = tomllib.loads(Path(__file__).with_name("collapse.toml").read_text("utf-8"))
SIZES, NO_CURE = COLLAPSE["sizes"], COLLAPSE["no_cure"]

COLLAPSE_RUNS = Path(__file__).with_name("collapse.csv")


def collapse_runs() -> pd.DataFrame:
    """Return the runs that ship: ten starts of each cure, drawn before anybody had seen one.

    Columns: arm str · seed int64 · dead, never int64 (experts that lost all their facts, or never had one) · busiest,
    dropped, remembered float64 (shares of the facts). `python -m benchmarks.collapse --write` trains them anew.
    """
    return pd.read_csv(COLLAPSE_RUNS)


def collapse_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per cure with the lowest and highest figure of its runs, as text: arm, dead, busiest, …"""
    rows = []
    for arm, of in runs.groupby("arm", sort=False):
        row = {"arm": arm, "dead": _range(of["dead"]), "never": _range(of["never"])}
        rows.append(row | {name: _range((100 * of[name]).round()) for name in ("busiest", "dropped", "remembered")})
    return pd.DataFrame(rows)


def _ahead() -> list[dict[str, Any]]:
    """Return the results of ten starts of each cure, with the settings by which the page finds them."""
    rows = collapse_table(collapse_runs()).set_index("arm")
    return [
        {"settings": NO_CURE | arm["set"], "says": arm.get("says", ""), **rows.loc[name, ["dead", "remembered"]]}
        for name, arm in COLLAPSE["arms"].items()
    ]


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low}–{high}"


_collapse = component(
    "collapse",
    "<div class='frame'><div class='collapse'></div></div>",  # two, since a container query asks what is around
    "controls collapse",
    "token explorer_parts collapse_training collapse_garden collapse",
)


def collapse(note: str, key: str) -> None:
    """Draw the experts, what a visitor may set, and the runs so far; `note` stands below them."""
    data: dict[str, Any] = {
        "sizes": SIZES,
        "knobs": COLLAPSE["knobs"],
        "presets": {name: NO_CURE | changed for name, changed in COLLAPSE["presets"].items()},
        "colours": EXPERT_COLOURS[: SIZES["experts"]],
        "note": note,
        "ahead": _ahead(),
    }
    _collapse(key=key, data=data)


_opening = component(
    "opening",
    "<div class='frame'><div class='opening'></div></div>",
    "controls opening",
    "token explorer_parts story_parts opening",
)


def opening(data: Mapping[str, Any], key: str) -> None:
    """Draw the data of `packed_opening`."""
    _opening(data=dict(data), key=key)


def packed_opening(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sentence as the JavaScript reads it; arrays in base64. `words` are of its parts: what, who, other."""
    found = one_sentence()
    layers, experts, width = found.router.shape
    halves = {name: base64(getattr(found, name), np.float16) for name in ("x", "residual", "answers", "others")}
    return halves | {
        "router": base64(found.router, np.float32),
        "tokens": ["start", *map(visible, found.tokens[1:])],
        "texts": list(map(visible, found.texts)),
        "layers": layers,
        "experts": experts,
        "width": width,
        "topK": found.answers.shape[2],
        "expertSize": 3 * width * width,
        "shown": SHOWN,
        "colours": COLOURS,
        "sources": sources(),
        "words": words,
    }


STOP, BACK = "stop", "back"

_book = component(
    "phone_book",
    "<section class='book' aria-label='Why experts?'></section>",
    "controls phone_book",
    "token explorer_parts phone_book_arm phone_book",
)
_wire = component("phone_book_wire", "<div hidden></div>", scripts="leaving phone_book_wire")


def phone_book(data: Mapping[str, Any], key: str) -> None:
    """Draw the book. `data`: words, bars, and runs by name, each of `packed_run`."""
    names = {"first": FIRST_NAMES.split(), "second": SECOND_NAMES.split()}
    _book(data={**names, **data}, key=key)


def wire(name: str | None, run: BookRun | None, says: str, going: bool, key: str, on_teach: Callable[[], None]) -> None:
    """Tell the book what is trained now, or was trained last: the run of that name so far, and how far it is in words.

    While it is `going`, the browser asks again and again. `on_teach` is called when a visitor asks for something; see
    `wanted`.
    """
    packed = None if run is None else packed_run(run)
    data = {"name": name, "run": packed, "says": says, "going": going, "at": monotonic()}
    _wire(data=data, key=key, on_teach_change=on_teach, on_look_change=nothing)


def wanted(state: Any, names: Container[str]) -> str | None:
    """Return what the browser asks for: a name of `names` to train, STOP, BACK, or None. It may be any message."""
    told = state.get("teach") if isinstance(state, Mapping) else None
    return told if isinstance(told, str) and (told in (STOP, BACK) or told in names) else None


def packed_run(run: BookRun) -> dict[str, Any]:
    """Return a run as the browser reads it: bits and bytes in base64."""
    return {
        "steps": list(run.recorded),
        "last": run.settings["steps"],
        "shares": [round(float(share), 4) for share in run.shares],
        "seed": run.settings["seed"],
        "experts": run.settings["experts"],
        "topK": run.settings["top_k"],
        "atWork": run.at_work,
        "held": run.expert_parameters,
        "right": base64(run.right, np.uint8),
        "seen": base64(run.seen, np.uint8),
        "numbers": base64(run.numbers, np.uint8),
        "answers": base64(run.answers, np.uint8),
        "chosen": base64(run.experts, np.uint8),
    }
