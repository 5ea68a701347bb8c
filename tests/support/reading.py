"""What is read out of Markdown pages, to be tried: blocks of code, links, and the output that a page promises."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"")
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?%?")
LEFT_OUT = "…"  # a line of output that says: any lines


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str  # python, console: run · output: what the Python before it prints · sh: commands that exist
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in FENCE.finditer(text)]


def links(page: Path) -> list[str]:
    """Files that a page links to or shows, as they stand in it."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found = (one or other for one, other in LINK.findall(text))
    return [link for link in found if "://" not in link]


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that it is said to print."""
    lines = block.code.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    return [(lines[at][2:], lines[at + 1 : end]) for at, end in pairwise([*starts, len(lines)])]


def missing(promised: list[str], printed: str) -> list[str]:
    """Promised lines that were not printed, in this order, with these numbers to the digits that are shown."""
    there = iter(printed.splitlines())
    return [line for line in promised if line.strip() not in ("", LEFT_OUT) and not any(same(line, p) for p in there)]


def same(promised: str, printed: str) -> bool:
    """Whether two lines have the same words, and numbers that differ by no more than two in the last digit."""
    if NUMBER.sub("#", promised).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(promised), NUMBER.findall(printed), strict=True)
    return all(abs(_value(one) - _value(other)) <= 2.001 * _last_digit(one) for one, other in pairs)


def _value(number: str) -> float:
    return float(number.rstrip("%").replace(",", ""))


def _last_digit(number: str) -> float:
    """The worth of its last decimal; of a whole number nothing, since those are exact."""
    decimals = len(number.rstrip("%").partition(".")[2])
    return 10.0**-decimals if decimals else 0.0
