"""The house, checked: everything points down, no circles, and each heavy library has one home. See `house.py`."""

import re
from collections import Counter
from collections.abc import Iterable

import house
from house import ROOT

FILES = house.files_of(ROOT)


def test_every_file_has_a_row_that_says_what_it_may_import():
    assert not [file for file in FILES if house.allowed(file) is None], "No row in MAY_IMPORT: where do they belong?"


def test_imports_point_down():
    upward = {file: sorted(house.upward(file, (ROOT / file).read_text())) for file in FILES}
    wrong = {file: names for file, names in upward.items() if names}
    assert not wrong, f"These may import { ({file: house.allowed(file) for file in wrong}) }."


def test_nothing_that_runs_needs_what_trained_the_embedded_model():
    for file in FILES:
        if not file.startswith("models/"):
            assert not [name for name in house.imports((ROOT / file).read_text()) if name.startswith("models")], file


def test_there_are_no_circles_of_files_or_of_rooms():
    graph = house.graph_of(ROOT)
    assert house.circles(graph) == []
    assert house.circles(house.rooms_of(graph)) == []


def test_no_test_imports_a_test():
    """What two of them need is in tests/support."""
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert "test_app" in tests and those_imported("from test_app import run", tests) == {"test_app"}
    found = {path.name: those_imported(path.read_text("utf-8"), tests) for path in (ROOT / "tests").rglob("*.py")}
    assert not {name: modules for name, modules in found.items() if modules}


def those_imported(code: str, tests: set[str]) -> set[str]:
    """Those of these modules that a file imports."""
    return {part for name in house.imports(code) for part in name.split(".")} & tests


def test_imports_are_found_wherever_they_hide():
    code = """
import moeviz.charts.load
def late():
    from moeviz.metrics import load
    import_module("moeviz.report.plots")
    import_module(f"moeviz.history.{name}.exhibit")
    import_module("models.training.export")
ANOTHER = {"mlx": "models.cache"}
TABLE = {"trace": ("moeviz.capture.trace", "trace")}
log = logging.getLogger("moeviz.capture")
"""
    assert house.imports(code) == {
        "moeviz.charts.load",
        "moeviz.metrics.load",
        "moeviz.report.plots",
        "moeviz.history.*.exhibit",
        "models.training.export",
        "moeviz.capture.trace",
    }


def test_a_trace_that_imports_its_viewers_is_noticed():
    """The control: the circle that this house once had."""
    assert house.upward("moeviz/routing_trace.py", 'import_module("moeviz.report.plots")')
    graph = house.graph_of(ROOT)
    graph["moeviz/routing_trace.py"].add("moeviz/report/plots.py")
    assert "moeviz/metrics/load.py" in house.circles(graph)[0]


def test_kernels_is_a_folder_and_not_a_package():
    """Hugging Face owns the import name `kernels`, and transformers imports it."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_there_is_no_room_for_everything():
    assert not [file for file in FILES if file.rpartition("/")[2] in {"utils.py", "helpers.py", "common.py", "misc.py"}]


def test_a_name_is_of_one_class():
    """Somebody who reads it in a message or a search knows which one is meant."""
    assert shared(["class Found:\n    pass", "def found():\n    pass\n\n\nclass Found(dict):\n    pass"]) == {"Found"}
    benchmarks = sorted(path for folder in ("benchmarks", "tools") for path in (ROOT / folder).glob("*.py"))
    assert not shared(path.read_text("utf-8") for path in [*(ROOT / file for file in FILES), *benchmarks])


def shared(codes: Iterable[str]) -> set[str]:
    """Names of classes that several of these files have."""
    found = Counter(name for code in codes for name in set(re.findall(r"^class (\w+)", code, re.MULTILINE)))
    return {name for name, times in found.items() if times > 1}


def test_streamlit_finds_no_pages_of_its_own_beside_the_app():
    """Each file in a folder of that name would be run as a page in place of ours, at the address of its name."""
    assert not (ROOT / "app" / "moeviz_app" / "pages").exists()
