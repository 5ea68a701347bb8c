"""Gather a folder of wheels with which `make gpu-report` runs on a CUDA machine that has no network.

    python -m tools.gpu_wheels [--output FOLDER] [--python 3.12] [--there FILE] [--platform TAG …]
    or: make gpu-wheels PYTHON_THERE=3.12 THERE=FILE

All that the report needs except torch and Triton, which stay the machine's own, with all of CUDA. Versions are
those that are installed here, under which the tests pass. `--python` is that of the machine, `--platform` the tags
that its pip takes (default: those of glibc 2.28 and older on x86-64). `--there` is what `pip freeze` prints on the
machine: what it has in a version that is good enough is left out. This needs a package index.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "gpu-wheels"
TESTED_BY = ("pytest", "beartype")
OF_THE_MACHINE = re.compile(r"torch|triton|(nvidia|cuda)-.*|pytorch-triton.*")
PLATFORMS = [f"manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_24", "_2_17", "2014", "1", "_2_12", "_2_5")]


def main(arguments: list[str] | None = None) -> int:
    """Download the wheels; 0 where all are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="FOLDER", help="default: build/gpu-wheels")
    here = ".".join(map(str, sys.version_info[:2]))
    parser.add_argument("--python", default=here, metavar="VERSION", help=f"of the machine (default: {here})")
    parser.add_argument("--platform", action="append", metavar="TAG", help="that its pip takes; may be given again")
    parser.add_argument("--there", type=Path, metavar="FILE", help="what `pip freeze` prints on the machine")
    asked = parser.parse_args(arguments)
    wanted = sorted(needed(asked.python, asked.there.read_text() if asked.there else ""))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", asked.python, "--dest", str(asked.output)]
    for tag in asked.platform or PLATFORMS:
        command += ["--platform", tag]
    code = subprocess.run([*command, *wanted], check=False).returncode
    asked.output.mkdir(parents=True, exist_ok=True)
    wheels = [wheel.stat().st_size for wheel in asked.output.glob("*.whl")]
    print(f"{len(wheels)} wheels of {len(wanted)} in {asked.output}, {sum(wheels) / 1e6:.0f} MB.")
    return code


def needed(python: str, frozen: str = "") -> set[str]:
    """Return the pinned packages: what the project's core and its tests on a GPU need, and what that needs in turn.

    frozen   lines such as "numpy==2.5.2", of what is there.
    """
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    where = {"python_version": python, "python_full_version": f"{python}.0"}
    waiting = [*map(Requirement, [*core, *TESTED_BY])]
    seen: dict[str, SpecifierSet] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if OF_THE_MACHINE.fullmatch(name) or (requirement.marker and not requirement.marker.evaluate(where)):
            continue
        if name not in seen:
            waiting += _requirements(name, {""})
        seen[name] = seen.get(name, SpecifierSet()) & requirement.specifier
        if requirement.extras:
            waiting += _requirements(name, requirement.extras)
    lines = (line.partition("==") for line in frozen.splitlines() if "==" in line)
    there = {canonicalize_name(name): version.strip() for name, _, version in lines}
    return {_pin(name) for name, wanted in seen.items() if name not in there or not wanted.contains(there[name])}


def _requirements(name: str, extras: set[str]) -> Iterator[Requirement]:
    """Yield the requirements of an installed package with these extras; none if it is not installed here."""
    try:
        asked = [*map(Requirement, distribution(name).requires or [])]
    except PackageNotFoundError:
        return
    for requirement in asked:
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


def _pin(name: str) -> str:
    try:
        return f"{name}=={distribution(name).version}"
    except PackageNotFoundError:  # needed there and not here
        return name


if __name__ == "__main__":
    sys.exit(main())
