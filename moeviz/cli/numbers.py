"""Numbers on the command line: those that an option takes."""

import argparse
from collections.abc import Callable


def number(kind: type, low: int, high: int = 2**63) -> Callable[[str], int | float]:
    """What reads a number of that kind from `low` to `high`; argparse says it where it is none."""

    def read(text: str) -> int | float:
        number = kind(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return number

    read.__name__ = "whole number" if kind is int else "number"  # argparse says "invalid … value"
    return read
