"""A model card's sections against the files that they are of."""

import re

import pytest


def cells(text, section):
    """The cells of the tables of one section, numbers as numbers."""
    lines = text.split(f"## {section}", 1)[1].split("\n## ")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    return [[float(cell) if re.fullmatch(r"[\d.]+", cell) else cell for cell in row] for row in rows]


def check_sections(evaluated, printed, sections):
    """What is printed now is what these sections of an evaluation say, but for how another machine rounds."""
    for section in sections:
        shipped, now = cells(evaluated, section), cells(printed, section)
        assert len(shipped) == len(now) > 2
        for old, new in zip(shipped, now, strict=True):
            assert new == [pytest.approx(cell, abs=0.02) if isinstance(cell, float) else cell for cell in old]
