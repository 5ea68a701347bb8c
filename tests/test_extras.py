"""What works where an extra is not installed, and what is said where it does not. In processes that lack it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moeviz.errors import MoevizError
from moeviz.history.shared.results import history_extra

pytestmark = pytest.mark.package  # each in a process of its own

ROOT = Path(__file__).parent.parent
HISTORY = ("sklearn", "scipy", "hmmlearn", "joblib", "threadpoolctl")
EXTRAS = (*HISTORY, "streamlit", "vl_convert")
LACK = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
EVERY_MODULE = """
import importlib, pkgutil, moeviz
for module in pkgutil.walk_packages(moeviz.__path__, "moeviz."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from moeviz.charts import TOPICS
from moeviz.testing import sample_trace
sample_trace().plot.load().to_dict()
"""
# One process for what lacks the same: importing torch takes longer than all that is asked then.
WITHOUT_HISTORY = """
import io, json, sys
from contextlib import redirect_stderr
from moeviz.cli.main import main
from moeviz.history.systems import shipped_trace
from moeviz.history.systems import SYSTEMS
for name in SYSTEMS:
    assert len(shipped_trace(name).tokens)
with redirect_stderr(io.StringIO()) as lines:
    ended = [main(["history", "run", name]) for name in ("svm-experts", "hmm-experts")]

from moeviz_app.views.menu import GALLERY, STORY
from moeviz_app.widgets import near
from streamlit.testing.v1 import AppTest

near.is_near = lambda _name: True  # a screen is not there

drawn, said = {}, {}
for title, folder in {STORY: "story", **GALLERY}.items():
    script = "from moeviz_app.views.menu import ROWS\\nROWS[%r].draw()" % title
    app = AppTest.from_string(script, default_timeout=120).run()
    assert not app.exception, (folder, app.exception)
    drawn[folder] = len(app.get("vega_lite_chart")) + len(app.get("bidi_component"))
    if folder in ("hmm_experts_1996", "svm_experts_2002"):
        (train,) = (button for button in app.button if button.label == "Train")
        train.click().run()
        assert not app.exception, (folder, app.exception)
        said[folder] = [text.value for text in app.text]
print(json.dumps({"ended": ended, "lines": lines.getvalue().splitlines(), "drawn": drawn, "said": said}))
"""
SKLEARN = 'Training this system needs scikit-learn, which is not installed here: `pip install "moeviz[history]"`.'
SCIPY = SKLEARN.replace("scikit-learn", "scipy")


def without(names: tuple[str, ...], script: str) -> subprocess.CompletedProcess[str]:
    """A Python in which these modules cannot be found runs a script."""
    command = [sys.executable, "-c", LACK.format(names=set(names)) + script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_is_lacking_cannot_be_found():
    """The control of all that follows."""
    run = without(EXTRAS, f"from importlib.util import find_spec\nprint(*map(find_spec, {EXTRAS}))")
    assert run.stdout.split() == ["None"] * len(EXTRAS), run.stderr


def test_every_module_of_the_library_is_imported_and_draws_without_any_extra():
    assert (run := without(EXTRAS, EVERY_MODULE)).returncode == 0, run.stderr


@pytest.fixture(scope="module")
def found():
    """Run the history, in the library and in the app, where nothing that trains it is installed."""
    run = without(HISTORY, WITHOUT_HISTORY)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_every_system_that_ships_is_a_trace_without_what_trains_it_and_training_says_one_sentence(found):
    assert found["ended"] == [3, 3]
    said = [line for line in found["lines"] if "images to numbers" not in line]  # the first step of training
    assert said == [f"moeviz: {SKLEARN}", f"moeviz: {SCIPY}"]


def test_every_page_of_the_gallery_draws_without_what_trains_it_and_training_says_one_sentence(found):
    assert all(count >= 2 for count in found["drawn"].values()), found["drawn"]
    assert SKLEARN in found["said"]["svm_experts_2002"]
    assert SCIPY in found["said"]["hmm_experts_1996"]


def test_the_app_without_streamlit_is_one_sentence():
    run = without(EXTRAS, "from moeviz.cli.main import main\nsys.exit(main(['app']))")
    assert run.returncode == 3 and not run.stdout
    assert run.stderr == 'moeviz: The app needs Streamlit, which is not installed here: `pip install "moeviz[app]"`.\n'


@pytest.mark.parametrize(("module", "name"), [("sklearn.svm", "scikit-learn"), ("scipy.optimize", "scipy")])
def test_in_the_library_what_is_missing_is_named_as_one_installs_it(monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MoevizError, match=rf"{name}.*moeviz\[history\]"), history_extra():
        __import__(module)
