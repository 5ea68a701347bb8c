"""The model that ships with moeviz: weights, tokenizer and card. Works offline, on any laptop."""

from pathlib import Path

EMBEDDED = "embedded"  # the name by which moeviz opens it everywhere


def embedded_path() -> Path:
    """Return the folder that transformers loads it from."""
    return Path(__file__).parent
