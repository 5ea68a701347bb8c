"""The story of the history: a rail of years, the inputs of each system, and what one of them meets in it.

Below it, in a component of its own, two models that read the same texts. Both draw what `moeviz.history.story` found.
"""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from moeviz.charts import theme
from moeviz.history.story import BRANCHES, INPUTS, STEPS, Half, Meters, Scene, Step, Twin
from moeviz.metrics.expert_names import UNNAMED
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import percent

HERE = Path(__file__).parent
COLOURS = theme.EXPERT_COLOURS[:8]  # of more experts, the ninth begins again; all are numbered


def _component(name: str, html: str, *parts: str) -> Any:
    return st.components.v2.component(
        f"moeviz_{name}",
        html=html,
        css=(HERE / "story.css").read_text("utf-8"),
        js="\n".join((HERE / f"{part}.js").read_text("utf-8") for part in ("explorer_parts", "story_parts", *parts)),
    )


_story = _component("story", "<div class='story'></div>", "story_picture", "story_inputs", "story")
_twins = _component("twins", "<div class='twins'></div>", "twins")


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
        "inputs": {name: made._asdict() | {"drawn": _shown(made.drawn)} for name, made in inputs.items()},
        "steps": [_step(step) for step in STEPS],
        "branches": [
            {name: getattr(branch, name) for name in ("year", "short", "title", "says", "page")} for branch in BRANCHES
        ],
    }


def packed_twins(found: Sequence[Twin], kinds: Sequence[str]) -> dict[str, Any]:
    """The texts once, and of each twin its choices, names and shares."""
    tokens = found[0].trace.tokens
    return {
        "colours": COLOURS,
        "kinds": list(kinds),
        "words": [visible(text) for text in tokens["text"]],
        "groups": tokens["label"].tolist(),
        "twins": [_twin(twin) for twin in found],
    }


def in_words(shares: tuple[float, float]) -> str:
    """A range of shares."""
    low, high = map(percent, shares)
    return f"{low} to {high}"


def _shown(drawn: dict[str, Any]) -> dict[str, Any]:
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
        "experts": _base64(trace.experts, np.int8),
        "weights": _base64(trace.weights, np.float32),
        "drawn": dict(scene.drawn),
    }


def _three_numbers(meters: Meters) -> list[tuple[str, str]]:
    """Three numbers, and what each of them is."""
    experts = f"{meters.experts}{f' + {meters.shared}' * bool(meters.shared)}"
    return [
        (experts, "expert, if it is one" if meters.experts == 1 else "experts in a layer"),
        (f"{100 * meters.computed:.3g}%", "of them needed for an input"),
        (f"× {meters.parameters:.2g}", "as many weights in experts as an input needs"),
    ]


def _twin(twin: Twin) -> dict[str, Any]:
    names = twin.names
    return {
        "title": twin.title,
        "said": f"first choices repeat: {in_words(twin.repeats)}",
        "layers": list(twin.trace.model.layers),
        "first": _base64(twin.trace.experts[..., 0], np.int8),
        "shares": _base64(twin.shares, np.float32),
        "names": names["name"].where(names["holds"], UNNAMED).tolist(),
        "by": names["by"].where(names["holds"], "").tolist(),
    }


def _base64(values: Any, kind: type) -> str:
    return b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
