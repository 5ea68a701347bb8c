"""Builds nothing without the weights: a distribution of models that holds none would install, and then fail later."""

import sys
from pathlib import Path

from setuptools import setup

PACKAGE = Path(__file__).parent / "moeviz_models"
FOLDERS = ("natural", "fine")
POINTER = b"version https://git-lfs"  # in place of weights that git-lfs did not fetch

for folder in FOLDERS:
    weights = PACKAGE / folder / "model.safetensors"
    if not weights.is_file():
        sys.exit(f"moeviz_models/{folder} has no model.safetensors. README.md says how the weights get there.")
    if weights.read_bytes()[: len(POINTER)] == POINTER:
        sys.exit(f"moeviz_models/{folder} has a pointer of git-lfs in place of its weights. Fetch them: git lfs pull.")

setup(packages=["moeviz_models"])
