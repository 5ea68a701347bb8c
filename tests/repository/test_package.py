"""What others install: what it asks for, and what the wheel and the source distribution hold."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from tools.versions import requirements_in

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FIXED = {"streamlit", "torch", "transformers", "altair", "pandas", "triton", "accelerate"}  # by who asked for moeviz
FOLDERS = {"moeviz": "moeviz", "app/moeviz_app": "moeviz_app", "kernels/moe_kernels": "moe_kernels"}
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "_build", "*.egg-info", "__pycache__", ".*_cache", "golden"
)


def normalised(requirements: list[Requirement]) -> set[str]:
    return {str(requirement) for requirement in requirements}


def asked_for(*extras: str) -> set[str]:
    """What pyproject.toml asks for: the core, and these extras."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return normalised([Requirement(line) for line in lines])


def test_requirements_txt_is_the_core_with_app_and_history():
    text = (ROOT / "requirements.txt").read_text()
    assert normalised(requirements_in(text)) == asked_for("app", "history")


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("altair>=6,<7", "altair>=6"),
        ("altair>=6,<7", "altair>=6.1,<7"),
        ("altair>=6,<7", "altair[all]>=6,<7"),
        ("altair>=6,<7", ""),
        ("altair>=6,<7", "altair>=6,<7\nrequests"),
        (' ; sys_platform == "linux"', ""),
    ],
)
def test_a_difference_would_be_seen(line, changed):
    text = (ROOT / "requirements.txt").read_text()
    assert line in text
    assert normalised(requirements_in(text.replace(line, changed, 1))) != asked_for("app", "history")


def test_the_seven_fixed_packages_are_ranges_and_triton_is_for_linux():
    found = {each.name: each for each in requirements_in((ROOT / "requirements.txt").read_text())}
    assert set(found) >= FIXED
    for name in FIXED:
        assert {each.operator for each in found[name].specifier} == {">=", "<"}
    assert str(found["triton"].marker) == 'sys_platform == "linux"'


def test_the_plain_package_brings_neither_streamlit_nor_scikit_learn():
    core = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert not core & {"streamlit", "scikit-learn", "scipy", "hmmlearn", "vl-convert-python"}


def test_no_extra_is_empty():
    assert all(EXTRAS.values())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[set[str], ZipFile]:
    """`python -m build`: the names in the source distribution, and the wheel that is made from it."""
    source, out = (tmp_path_factory.mktemp("package") / name for name in ("source", "dist"))
    shutil.copytree(ROOT, source, ignore=NOT_COPIED)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    with tarfile.open(sdist) as archive, ZipFile(wheel) as opened:
        yield {name.partition("/")[2] for name in archive.getnames()}, opened


def installed(wheel: ZipFile) -> set[str]:
    """The files that are put into site-packages, less what is said about them."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def metadata(wheel: ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


@pytest.mark.package
def test_the_wheel_holds_every_file_of_the_packages(built):
    there = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert installed(built[1]) == there


@pytest.mark.package
def test_the_wheel_installs_no_package_that_is_named_as_others_are(built):
    assert {name.partition("/")[0] for name in installed(built[1])} == {"moeviz", "moeviz_app", "moe_kernels"}


@pytest.mark.package
def test_the_wheel_holds_what_is_easily_left_behind(built):
    """By name, in case that the folders above were read wrongly."""
    assert installed(built[1]) >= {
        "moeviz/py.typed",
        "moeviz/capture/routers/families.csv",
        "moeviz/embedded/model.safetensors",
        "moeviz/embedded/tokenizer.json",
        "moeviz/embedded/example.npz",
        "moeviz/embedded/routing_over_training/tokens-0000262144.npz",
        "moeviz/history/timeline/timeline.csv",
        "moeviz/history/switch_2021/shipped.npz",
        "moeviz/history/shared/data/english.txt.gz",
        "moeviz_app/main.py",
        "moeviz_app/widgets/components/strip.js",
        "moeviz_app/views/history/gallery.py",
        "moe_kernels/router.py",
    }


@pytest.mark.package
def test_the_settings_in_the_wheel_are_those_of_the_repository(built):
    ours = (ROOT / "app" / "moeviz_app" / ".streamlit" / "config.toml").read_bytes()
    assert built[1].read("moeviz_app/.streamlit/config.toml") == ours


@pytest.mark.package
def test_the_wheel_says_whose_it_is_and_what_it_asks_for(built):
    said = metadata(built[1])
    assert said["License-Expression"] == "Apache-2.0"
    assert set(said.get_all("License-File")) == set(PROJECT["license-files"])
    for name in PROJECT["license-files"]:
        assert any(path.endswith(f".dist-info/licenses/{name}") for path in built[1].namelist())
    assert set(said.get_all("Provides-Extra")) == set(EXTRAS)
    plain = {Requirement(line) for line in said.get_all("Requires-Dist") if "extra ==" not in line}
    assert normalised(list(plain)) == asked_for()
    assert said["Description-Content-Type"] == "text/markdown" and said.get_payload().lstrip().startswith("# moeviz")


@pytest.mark.package
def test_the_source_distribution_brings_its_tests_and_how_the_model_was_made(built):
    assert built[0] >= {
        "Makefile",
        "requirements.txt",
        "app/moeviz_app/main.py",
        ".streamlit/config.toml",
        "app/moeviz_app/.streamlit/config.toml",
        "kernels/compile_check.py",
        "models/training/train.py",
        "models/training/corpus/build.py",
        "tests/conftest.py",
    }
    assert not [name for name in built[0] if re.search(r"__pycache__|\.pyc$|(^|/)\.(git|venv)(/|$)|^build/", name)]
