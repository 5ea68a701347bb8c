"""README, tutorials and how-tos are true: their code runs and prints what they show, and what they name is there.

A page is run from top to bottom: its Python blocks share their names, its commands share their folder. An `output`
block is what the Python before it printed.
"""

import contextlib
import io
import re
import shlex
import sys
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

import pytest
from PIL import Image
from reading import Block, blocks, commands, links, missing, same

import moeviz
import moeviz.training
from moeviz.cli.main import COMMANDS, main, parser, read_arguments
from moeviz.cli.metrics import TOPICS
from moeviz.cli.output import DONE, ERROR, FOUND
from moeviz.cli.words import called
from moeviz.examples.__main__ import main as write_examples
from moeviz_app.views.menu import MENU

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
QUESTIONS = ROOT / "docs" / "questions.md"
DEVELOPING = ROOT / "docs" / "developing.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
DOCS = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "background").glob("*.md")]
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
INSTALL = ROOT / "docs" / "install.md"
PAGES = [README, CONTRIBUTING, QUESTIONS, INSTALL, ROOT / "docs" / "index.md", *TUTORIALS, *HOW_TO]
PICTURES = ROOT / "docs" / "pictures"
IN_A_TABLE = re.compile(r"`moeviz ([^`]+)`")
README_LINES, STILL_BYTES, MOVING_BYTES = 150, 400_000, 2_000_000
PICTURE = (".png", ".webp")

# What a command needs that is not always here: what its line has, the package, and what it says where that is missing.
EXTRAS = {
    r"^moeviz (trace|corpus|precision) .*\.gguf": ("llama_cpp_py_sync", "moeviz[gguf]"),
    r"^moeviz .*/model-4bit": ("mlx_lm", "model-4bit"),
}
FINDS = ("check", "watch")  # exit code 1 is an answer

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.mark.docs
@each_page
def test_a_page_s_code_runs_and_prints_what_the_page_shows(page, examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = {"__name__": "page"}, ""
    for block in blocks(page):
        if block.language == "python":
            printed = run_python(page, block, names)
        elif block.language == "console":
            run_console(page, block, examples)
        elif block.language == "output":
            assert not missing(block.code.splitlines(), printed), f"{page.name}:{block.line}: printed was\n{printed}"


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """Where the examples are, once some page has asked for them: the folder, or nothing yet."""
    return tmp_path_factory.mktemp("of-pages") / "examples"


def run_python(page: Path, block: Block, names: dict) -> str:
    """Run a block, in lines of its page; what it printed."""
    code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def run_console(page: Path, block: Block, examples: Path) -> None:
    """Run each command of a block, and look for what it is said to print."""
    assert commands(block), f"{page.name}:{block.line} has no line that begins with `$ `."
    for command, promised in commands(block):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = run_command(page, shlex.split(command), examples)
        lacks = [says for line, (needs, says) in EXTRAS.items() if re.search(line, command) and not find_spec(needs)]
        if lacks:
            assert code == ERROR and lacks[0] in err.getvalue(), f"{command}\n{err.getvalue()}"
            continue
        assert code in (DONE, *[FOUND] * (command.split()[1] in FINDS)), f"{command}\n{err.getvalue()}"
        assert not missing(promised, out.getvalue()), f"{page.name}: {command} printed\n{out.getvalue()}"


def run_command(page: Path, words: list[str], examples: Path) -> int:
    """Run a command of a page. The examples are written once, for the first page that has them written."""
    if words[:3] != ["python", "-m", "moeviz.examples"]:
        assert words[0] == "moeviz", f"{page.name}: {words[0]!r} is not run; put it into `sh`."
        return main(words[1:])
    code = DONE if examples.exists() else write_examples([str(examples)])
    Path(words[3]).symlink_to(examples)
    return code


def test_the_examples_are_written_into_a_new_folder(tmp_path, capsys):
    assert [write_examples([]), write_examples(["--help"]), write_examples([str(tmp_path)])] == [2, 2, 3]
    assert capsys.readouterr().err.endswith("Name a new folder.\n")


@each_page
def test_commands_that_are_not_run_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for block in (block for block in blocks(page) if block.language == "sh"):
        for line in block.code.splitlines():
            words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)]
            if words[:1] == ["make"]:
                assert set(words[1:]) <= targets, line
            elif words[:1] == ["moeviz"]:
                args = read_arguments(words[1:])
                assert not args.extra or args.command == "app", line


# Why a command of a block of `sh` is not run by the tests: of those that match, the first.
WHY_NOT = {
    r"pip install|-m venv|\.venv/bin/": "installs from outside the folder",
    r"^make |docker |systemctl|gunicorn|caddy|nginx|git |hf download|^export |^sudo ": "is for a machine of its own",
    r"moeviz app|streamlit run|MOEVIZ_": "serves until it is stopped",
    r"s3://": "needs a store",
    r"--ray|^ray |CUDA_VISIBLE": "needs Ray, or cards",
    r"vllm|sglang|http": "needs a server that runs a model",
    r"allenai/|base/|google/|Qwen/": "needs a model from the hub",
    r"--adapter|run\.npz": "needs a router, or an agent's run, of the reader's own",
    r"moeviz (corpus|history)": "reads many texts, or trains, for minutes",
}


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's blocks of `sh`."""
    texts = (block.code.replace("\\\n", " ") for block in blocks(page) if block.language == "sh")
    return [line for text in texts for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def test_every_command_of_every_page_is_run_or_has_a_reason_why_not():
    """Blocks of `console` and `python` are run above. A reason that is nobody's goes, and so does a hidden command."""
    lines = {f"{page.name}: {line}": line for page in sorted({*PAGES, *REFERENCE, *DOCS}) for line in shell_lines(page)}
    why = {at: next((told for told in WHY_NOT if re.search(told, line)), None) for at, line in lines.items()}
    assert not [at for at, told in why.items() if told is None], "Put it into a block of `console`, or say why not."
    assert {*why.values()} == {*WHY_NOT}


@pytest.mark.parametrize("page", [*PAGES, *REFERENCE], ids=lambda page: page.stem)
def test_commands_in_sentences_exist(page):
    for command in IN_A_TABLE.findall(page.read_text(encoding="utf-8")):
        words = [word for word in shlex.split(command) if word != "…"]
        if words[0] in ("COMMAND", "--version"):
            continue
        assert words[0] in COMMANDS, command
        one = called(parser(), words)
        options = {option for action in one._actions for option in action.option_strings}
        assert {word for word in words if re.fullmatch(r"--[\w-]+", word)} <= options, command


@each_page
def test_what_a_page_links_to_is_there(page):
    assert not [link for link in links(page) if not (page.parent / link).exists()]


def test_a_stranger_reads_the_readme_to_its_end():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= README_LINES
    shown = [ROOT / link for link in links(README) if link.endswith(PICTURE)]
    still, moving = ([file for file in shown if file.suffix == suffix] for suffix in PICTURE)
    assert [file.stem.rpartition("-")[2] for file in (*still, *moving)] == ["dark", "light", "dark", "light"]
    assert sum(file.stat().st_size for file in still) < STILL_BYTES
    assert sum(file.stat().st_size for file in moving) < MOVING_BYTES


def test_the_readme_s_picture_moves_and_stands_still_where_motion_is_reduced():
    text = README.read_text("utf-8")
    for file in (ROOT / link for link in links(README) if link.endswith(PICTURE)):
        with Image.open(file) as picture:
            assert (picture.n_frames > 30) == (file.suffix == ".webp"), file.name
    sources = re.findall(r'<source media="([^"]*)" srcset="[^"]*\.(\w+)">', text)
    assert [kind for media, kind in sources if "reduce" in media] == ["png", "png"]
    assert [kind for media, kind in sources if "reduce" not in media] == ["webp"]


def test_install_lines_name_the_wheel():
    for page in (README, INSTALL):
        wheels = re.findall(r"pip install \"(\S+?)\[(\w+)\]\"", page.read_text("utf-8"))
        assert wheels == [(f"moeviz-{moeviz.__version__}-py3-none-any.whl", "app")]


def test_the_address_is_that_of_the_setting_in_every_file():
    sys.path.insert(0, str(ROOT))
    import hatch_build

    address = hatch_build.address_of((ROOT / "pyproject.toml").read_text("utf-8"))
    other = "https://example.org/moeviz"
    for name in hatch_build.FILES:
        text = (ROOT / name).read_text("utf-8")
        assert hatch_build.with_address(text, address) == text
        moved = hatch_build.with_address(text, other)
        assert other in moved and hatch_build.with_address(moved, address) == text
    cited = (ROOT / hatch_build.CITED).read_text("utf-8")
    assert hatch_build.citation(cited, address) == cited and other in hatch_build.citation(cited, other)
    assert f"version: {moeviz.__version__}\n" in cited
    absolute = hatch_build.with_absolute_links(README.read_text("utf-8"), other)
    assert len(re.findall(rf"{other}/(?:blob|raw)/main/", absolute)) >= len(links(README))
    assert not re.findall(r"\]\((?!https?:)", absolute + hatch_build.with_absolute_links(README.read_text("utf-8"), ""))


def test_what_the_readme_shows_as_printed_fits_a_terminal():
    shown = [line for block in blocks(README) if block.language == "output" for line in block.code.splitlines()]
    assert shown and max(map(len, shown)) <= 80
    assert not [line for line in shown if " ... " in line]  # where pandas leaves columns out


def test_the_documentation_opens_with_the_words_of_the_readme():
    sys.path.append(str(ROOT / "docs"))
    from _ext import pages

    opening = pages.filled("<!-- opening: README.md -->")
    words = README.read_text("utf-8").partition("\n## ")[0]
    assert all(paragraph in opening for paragraph in words.split("\n\n")[3:] if paragraph.strip())
    assert words.split("\n\n")[1] in opening and "# moeviz" not in opening
    shown = re.findall(r'(?:src|srcset)="([^"]+)"', opening)
    assert len(shown) == 4 and all((ROOT / "docs" / picture).is_file() for picture in shown)


def test_the_readme_leads_to_every_tutorial_and_to_the_how_tos():
    assert {*TUTORIALS, HOW_TO[0].parent} <= {(ROOT / link).resolve() for link in links(README)}


def test_the_table_of_questions_names_pages_topics_and_functions_that_there_are():
    rows = re.findall(r"^\| [^*|]+\? \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", QUESTIONS.read_text("utf-8"), re.MULTILINE)
    assert len(rows) >= 20
    pages = {*MENU, *(name for names in MENU.values() for name in names)}
    assert {page for cell, _, _ in rows for page in cell.split(", ")} <= {*pages, ""}
    assert {topic for _, cell, _ in rows for topic in re.findall(r"--topic ([\w-]+)", cell)} <= set(TOPICS)
    named = [name for *_, cell in rows for name in re.findall(r"`moeviz\.([\w.]+)`", cell)]
    assert len(named) >= 20 and all(callable(attrgetter(name)(moeviz)) for name in named)


def test_the_tree_of_the_documentation_is_that_of_the_folders():
    tree = next(block for block in blocks(DEVELOPING) if block.language == "text").code
    paths, top = set(), ""
    for indent, name in re.findall(r"^((?:  )?)([\w-]+/)(?= )", tree, re.MULTILINE):
        top = top if indent else name
        paths.add(top + name if indent else name)
    assert not [path for path in paths if not (ROOT / path).is_dir()]
    ours = {f"moeviz/{folder.parent.name}/" for folder in (ROOT / "moeviz").glob("*/__init__.py")}
    assert ours | {"app/", "moeviz/", "models/", "kernels/", "docs/", "deploy/", "tests/"} <= paths


def test_every_picture_is_shown_and_is_made_by_the_command():
    from docs.screenshots import SCREENSHOTS

    made = {shot.file for shot in SCREENSHOTS}
    assert made == {file.name for file in PICTURES.glob("*")}
    assert made == {Path(link).name for page in PAGES for link in links(page) if link.endswith(PICTURE)}


def test_files_that_contributors_are_told_to_touch_are_there():
    named = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|md|toml|txt))`", CONTRIBUTING.read_text(encoding="utf-8"))
    assert named
    built = ("build/",)
    assert not [path for path in named if not path.startswith(built) and not (ROOT / path).exists()]


def test_promised_output_with_other_words_or_numbers_is_missed():
    assert same("loss  1.993 nats", "loss 1.9931 nats")
    assert not same("loss 1.993 nats", "loss 1.983 nats")
    assert not same("loss 1.993 nats", "cost 1.993 nats")
    assert not same("8 of 128 experts", "8 of 127 experts")
    assert missing(["b", "a"], "a\nb") == ["a"]  # in another order
    assert missing(["…", "b"], "a\nb") == []
