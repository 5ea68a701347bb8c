"""What the documents say is so: examples run, the README's tree is the tree, every part is named where it should be."""

import doctest
import hashlib
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

import moeviz
from moeviz.charts import TOPICS
from moeviz.cli.arguments import COMMANDS
from moeviz.embedded import embedded_path
from moeviz.formats.exports import EXPORTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CARD = (embedded_path() / "MODEL_CARD.md").read_text()
MODULES = [
    "moeviz",
    *(m.name for m in pkgutil.walk_packages(moeviz.__path__, "moeviz.") if not m.name.endswith("__main__")),
]
TREE_LINE = re.compile(r"^(?P<indent> *)(?P<name>[\w.]+/?)(?:\s{2,}.*)?$")


def readme_tree() -> set[str]:
    """The paths in the README's tree: two spaces of indent a level."""
    block = README.split("<!-- tree -->\n```\n")[1].split("```")[0]
    paths, stack = set(), []
    for line in block.splitlines():
        match = TREE_LINE.match(line)
        assert match, f"The README's tree has a line that is not `name  comment`: {line!r}"
        depth = len(match["indent"]) // 2
        stack = [*stack[:depth], match["name"].rstrip("/")]
        paths.add("/".join(stack))
    return paths


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_examples_in_the_readme_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_readme_s_tree_is_true():
    assert not [path for path in readme_tree() if not (ROOT / path).exists()]


def test_every_module_stands_in_the_readme_s_tree():
    folders = ("app", "moeviz", "kernels", "benchmarks")
    files = [p.relative_to(ROOT) for folder in folders for p in (ROOT / folder).rglob("*.py") if p.stem[:2] != "__"]
    assert not {file.as_posix() for file in files} - readme_tree()


def test_the_readme_names_every_topic_chart_format_and_command():
    for topic, charts in TOPICS.items():
        assert topic in README
        assert not [chart.question for chart in charts if chart.question not in README]
    assert not [export.suffix for export in EXPORTS if f"`{export.suffix}`" not in README]
    assert set(re.findall(r"^moeviz ([\w-]+)", README, re.MULTILINE)) == set(COMMANDS)


def test_every_chart_says_how_it_is_computed():
    for chart in (chart for charts in TOPICS.values() for chart in charts):
        assert chart.reading.endswith(".")
        assert "Source" in chart.method, f"{chart.key}: its metric's docstring names no source."


def test_the_model_card_is_about_the_weights_that_ship():
    weights = (embedded_path() / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in CARD
    assert f"{len(weights):,} bytes" in CARD
    config = json.loads((embedded_path() / "config.json").read_text())
    assert f"{config['num_hidden_layers']} layers, hidden {config['hidden_size']}" in CARD
    assert f"{config['num_local_experts']} experts of width {config['intermediate_size']}" in CARD


def test_the_model_card_counts_its_parameters():
    from moeviz.capture.models.load import model_facts
    from moeviz.parameters import active_parameters

    facts = model_facts("embedded")
    assert f"{facts.parameters.total:,} in all" in CARD
    assert f"{active_parameters(facts.parameters, facts.top_k):,} active" in CARD
