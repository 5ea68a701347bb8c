"""The house, checked: everything points down, each heavy library has one home, and no room is too big to read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WATCHED = {"app", "moeviz", "moe_kernels", "streamlit", "altair", "torch", "transformers", "accelerate", "triton"}
INERT = "moeviz.errors moeviz.model_info moeviz.routing_trace"
TORCH = "torch transformers accelerate"

# Read as: files under the left may import these, and nothing else that is watched. The first match counts.
MAY_IMPORT = {
    "app": "app moeviz streamlit",
    "moeviz/charts": f"moeviz.charts moeviz.history moeviz.metrics {INERT} altair",
    "moeviz/metrics": f"moeviz.metrics moeviz.parameters {INERT}",
    "moeviz/capture/mixtures": f"moeviz.capture.mixtures moeviz.history {INERT}",
    "moeviz/history/checks": "moeviz.history moeviz.capture moeviz.embedded moeviz.metrics moeviz.parameters "
    f"{INERT} torch",
    "moeviz/history": "moeviz.history moeviz.errors torch",
    "moeviz/capture": f"moeviz.capture moeviz.embedded moeviz.parameters {INERT} moe_kernels {TORCH}",
    # Programs that use the whole house, to train and to judge the model that ships.
    "moeviz/embedded/training": f"moeviz {TORCH}",
    "moeviz/embedded/evaluate.py": "moeviz",
    "moeviz/embedded/losses.py": "moeviz.capture moeviz.embedded torch",
    "moeviz/embedded/formation.py": f"moeviz.embedded moeviz.formats {INERT}",
    "moeviz/embedded": "moeviz.embedded",
    "moeviz/files": f"moeviz.formats {INERT}",
    "moeviz/formats/exports.py": f"moeviz.formats moeviz.report.page {INERT}",
    "moeviz/report/plots.py": f"moeviz.charts moeviz.metrics {INERT} altair",
    "moeviz/report/page.py": "moeviz.charts moeviz.report.plots moeviz.report.pictures moeviz.report.style moeviz.report.notebook "
    f"{INERT}",
    "moeviz/report/pictures.py": "moeviz.errors altair",
    "moeviz/report/style.py": "moeviz.charts",
    "moeviz/report/notebook.py": f"moeviz.metrics moeviz.parameters {INERT}",
    "moeviz/samples.py": INERT,
    "moeviz/parameters.py": INERT,
    "moeviz/footprint.py": "",
    "moeviz/routing_trace.py": "moeviz.errors moeviz.model_info",
    "moeviz/model_info.py": "",
    "moeviz/errors.py": "",
    "moeviz/__init__.py": INERT,
    "moeviz/__main__.py": "moeviz.cli.main",
    "moeviz/cli/arguments.py": "",
    "moeviz/labelled_texts.py": "moeviz.embedded moeviz.errors",
    "moeviz/cli/corpus.py": f"moeviz.labelled_texts moeviz.metrics moeviz.cli.terminal {INERT}",
    "moeviz/cli/families.py": "moeviz.capture moeviz.cli.terminal transformers",
    "moeviz/cli/history.py": f"moeviz.history {INERT}",
    "moeviz/cli/io.py": "moeviz.capture moeviz.formats.exports moeviz.routing_trace moeviz.errors",
    "moeviz/cli/metrics.py": f"moeviz.charts {INERT}",
    "moeviz/cli/params.py": f"moeviz.capture moeviz.footprint moeviz.metrics moeviz.parameters {INERT}",
    "moeviz/cli/trace.py": f"moeviz.capture moeviz.metrics moeviz.cli.terminal {INERT}",
    "moeviz/cli/what_if.py": f"moeviz.capture moeviz.formats.exports moeviz.metrics moeviz.cli.terminal {INERT} transformers",
    "moeviz/cli/terminal.py": "moeviz.metrics",
    "moeviz/cli/app.py": "",
    "moeviz/cli/main.py": "moeviz",
    "kernels": "moe_kernels torch triton",
}
FILES = [path for folder in ("app", "moeviz", "kernels") for path in sorted((ROOT / folder).rglob("*.py"))]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())


def imports(path: Path) -> set[str]:
    """Everything that a file imports, also inside its functions, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, place: str, separator: str) -> bool:
    return name == place or name.startswith(place + separator)


def lines(function: ast.FunctionDef) -> int:
    """Lines of code; the docstring does not count."""
    text = function.body[0] if ast.get_docstring(function) else None
    return function.end_lineno - function.lineno + 1 - (text.end_lineno - text.lineno + 1 if text else 0)


@every_file
def test_imports_point_down(path):
    file = path.relative_to(ROOT).as_posix()
    allowed = next((may.split() for place, may in MAY_IMPORT.items() if within(file, place, "/")), None)
    assert allowed is not None, f"{file} has no row in MAY_IMPORT: where does it belong?"
    watched = {name for name in imports(path) if name.partition(".")[0] in WATCHED}
    upward = {name for name in watched if not any(within(name, may, ".") for may in allowed)}
    assert not upward, f"{file} may not import {sorted(upward)}; it may import {allowed}."


@every_file
def test_nothing_that_runs_needs_what_trained_the_embedded_model(path):
    training = "moeviz.embedded.training"
    if training.replace(".", "/") not in path.as_posix():
        assert not [name for name in imports(path) if within(name, training, ".")]


@every_file
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert text.count("\n") <= 250, f"{path.name} has more than 250 lines: split it by topic."
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f.name for f in functions if lines(f) > 40], "A function of more than 40 lines: split it."


def test_kernels_is_a_folder_and_not_a_package():
    """Hugging Face owns the import name `kernels`, and transformers imports it."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_there_is_no_room_for_everything():
    assert not [path for path in FILES if path.stem in {"utils", "helpers", "common", "misc"}]
