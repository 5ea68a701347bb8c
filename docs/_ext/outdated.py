"""Which pages have to be read again, where what was read last time is kept.

Sphinx looks at the file of a page. Ours hold marks too, which are filled in from files of the repository and from the
code. So a page is known by a digest of all that it is made from: its text, the files that it takes in, what reads it
(this folder, conf.py and the installed packages), and, where a part of it is generated, all that ships of moeviz.
"""

import re
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^<!-- (generated|file|part|opening): ([\w./-]+) -->$", re.MULTILINE)
CODE = ("moeviz", "app", "kernels", "models/training", "tests/house.py")  # what generated parts are made from
NAMES = ("docs/how-to", "docs/tutorials", "docs/pictures")  # of which tables of contents and the first page go by names
READERS = ("docs/_ext", "docs/conf.py")


def pages(app, env, _added, _changed, _removed) -> list[str]:
    """The pages that are made from something else than when they were read. Called by Sphinx (`env-get-outdated`)."""
    before, root = getattr(env, "made_from", {}), Path(app.srcdir).parent
    texts = {name: Path(env.doc2path(name)).read_text(encoding="utf-8") for name in env.found_docs}
    env.made_from = {name: digest(text, root) for name, text in texts.items()}
    return [name for name, made_from in env.made_from.items() if before.get(name) != made_from]


def digest(text: str, root: Path = ROOT) -> str:
    """What a page of this text is made from."""
    parts = [text, _of_readers(root)]
    for kind, name in MARK.findall(text):
        parts.append(_of_code(root) if kind == "generated" else (root / name).read_text(encoding="utf-8"))
    return sha256("\0".join(parts).encode()).hexdigest()


@cache
def _of_readers(root: Path) -> str:
    installed = sorted(f"{package.name} {package.version}" for package in distributions())
    return "\n".join([*installed, *_of_files(root, READERS)])


@cache
def _of_code(root: Path) -> str:
    names = (str(file.relative_to(root)) for folder in NAMES for file in sorted((root / folder).glob("*")))
    return "\n".join([*_of_files(root, CODE), *names])


def _of_files(root: Path, places: Iterable[str]) -> list[str]:
    """Each file there, with a digest of what is in it."""
    files = sorted(
        file for place in places for file in ([root / place], (root / place).rglob("*"))[(root / place).is_dir()]
    )
    return [
        f"{file.relative_to(root)} {sha256(file.read_bytes()).hexdigest()}"
        for file in files
        if file.is_file() and "__pycache__" not in file.parts
    ]
