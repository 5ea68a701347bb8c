"""The corpus on disk: a file a domain, a document a line, each with its source, file and licence."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from moeviz.embedded.evaluation import DOMAINS as _DOMAINS

DOMAINS = tuple(_DOMAINS)
HELD_OUT_PER_MILLE = 20


def read_documents(corpus: Path, domain: str) -> Iterator[dict[str, str]]:
    """The documents of one domain: `source`, `file`, `licence` and `text` of each."""
    with (corpus / f"{domain}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def is_held_out(document: dict[str, str]) -> bool:
    """Whether a document is kept from training: 2 % of the files, by a hash of the file's name.

    By file and not by text, so that a page which serves two domains, or a chapter which stands in five languages, is
    held out of all of them.
    """
    return int(hashlib.md5(document["file"].encode()).hexdigest(), 16) % 1000 < HELD_OUT_PER_MILLE
