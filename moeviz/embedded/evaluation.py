"""The evaluation set: a few thousand bytes of each domain that the embedded model never saw, each with its licence."""

import json
from dataclasses import dataclass
from pathlib import Path

DOMAINS = {  # the kinds of text that the embedded model was trained on, and their names for readers
    "english_prose": "English prose",
    "technical_english": "technical English",
    "dictionary": "dictionary",
    "python": "Python",
    "c": "C",
    "javascript": "JavaScript",
    "html": "HTML",
    "json": "JSON",
    "sql": "SQL",
    "french": "French",
    "german": "German",
    "spanish": "Spanish",
    "russian": "Russian",
    "chinese": "Chinese",
    "arithmetic": "arithmetic",
}
FILE = Path(__file__).parent / "evaluation.jsonl"


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """One held-out text, as long as fits into the model's context."""

    domain: str  # a key of DOMAINS
    text: str
    source: str  # the work or the package that it is from
    file: str  # and where in it; several, where short ones were joined
    licence: str

    @property
    def label(self) -> str:
        """The domain's name for readers."""
        return DOMAINS[self.domain]


def evaluation_set() -> tuple[EvaluationText, ...]:
    """Read all held-out texts, domain by domain.

    >>> {text.label for text in evaluation_set()} == set(DOMAINS.values())
    True
    """
    with FILE.open(encoding="utf-8") as lines:
        return tuple(EvaluationText(**json.loads(line)) for line in lines)
