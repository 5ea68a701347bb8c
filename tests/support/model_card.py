"""Tables of a model card or an evaluation."""

import re


def cells(text, section):
    """The cells of the tables of one section, numbers as numbers."""
    lines = text.split(f"## {section}", 1)[1].split("\n## ")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    return [[float(cell) if re.fullmatch(r"[\d.]+", cell) else cell for cell in row] for row in rows]
