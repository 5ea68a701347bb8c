"""The address of this project, from one setting: `[tool.moeviz] address` in pyproject.toml, empty until it has a host.

    python hatch_build.py       write it into the files below, between their marks `<!-- address -->` and `<!-- -->`

The package's metadata take their links from the same setting, and the README's relative links become absolute in them.
"""

import re
import tomllib
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).parent
MARKED = re.compile(r"(<!-- address: (\w+) -->\n)(.*?)(<!-- -->)", re.DOTALL)
LINK = re.compile(r"""(?P<before>\]\(|src="|srcset=")(?!https?:|#|mailto:)(?P<path>[^)"\s]+)""")
CITED = "CITATION.cff"
# What stands between two marks, with an address and without.
TEXTS = {
    "clone": ("```sh\ngit clone {0}\ncd moeviz\n```\n", ""),
    "issue": ("[Report what is wrong]({0}/issues), or ask for what is missing.\n", ""),
    "safer": (
        "Report it privately: {0}/security/advisories/new.\n",
        "Report it privately to whoever gave you this copy of moeviz, and not in a public issue.\n",
    ),
}
FILES = ("README.md", "docs/install.md", "SECURITY.md")


class CustomMetadataHook(MetadataHookInterface):
    """Fill the metadata's readme and links."""

    def update(self, metadata: dict) -> None:
        """Set `readme` and `urls`. Called by hatchling."""
        address = address_of((ROOT / "pyproject.toml").read_text("utf-8"))
        text = (ROOT / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": with_absolute_links(text, address)}
        metadata["urls"] = urls(address)


def address_of(pyproject: str) -> str:
    """Return the project's address, without a slash at its end; "" until it has one."""
    address: str = tomllib.loads(pyproject)["tool"]["moeviz"]["address"].rstrip("/")
    return address


def urls(address: str) -> dict[str, str]:
    """Return the links of the package's metadata."""
    ends = {"Homepage": "", "Documentation": "/tree/main/docs", "Source": "", "Issues": "/issues"}
    ends["Changelog"] = "/blob/main/CHANGELOG.md"
    return {name: address + end for name, end in ends.items()} if address else {}


def with_absolute_links(text: str, address: str) -> str:
    """Return a page whose links to files of the repository work elsewhere; without an address, without these links.

    >>> with_absolute_links("[install](docs/install.md)", "https://example.org/moeviz")
    '[install](https://example.org/moeviz/blob/main/docs/install.md)'
    >>> with_absolute_links("[install](docs/install.md)", "")
    'install'
    """
    if not address:
        text = re.sub(r"<picture>.*?</picture>\n*", "", text, flags=re.DOTALL)
        return re.sub(r"\[([^\]]+)\]\((?!https?:|#|mailto:)[^)]+\)", r"\1", text)

    def absolute(found: re.Match) -> str:
        kind = "blob" if found["before"] == "](" else "raw"
        return f"{found['before']}{address}/{kind}/main/{found['path']}"

    return LINK.sub(absolute, text)


def with_address(text: str, address: str) -> str:
    """Return a page with the address between its marks."""
    return MARKED.sub(lambda found: found[1] + TEXTS[found[2]][not address].format(address) + found[4], text)


def citation(text: str, address: str) -> str:
    """Return CITATION.cff with the address."""
    text = re.sub(r"^(repository-code|url): .*\n", "", text, flags=re.MULTILINE)
    return f"{text.rstrip()}\nrepository-code: {address}\nurl: {address}\n" if address else text


def main() -> None:
    """Write the address of the setting into every file that shows it."""
    address = address_of((ROOT / "pyproject.toml").read_text("utf-8"))
    for name in (*FILES, CITED):
        path = ROOT / name
        change = citation if name == CITED else with_address
        path.write_text(change(path.read_text("utf-8"), address), "utf-8")


if __name__ == "__main__":
    main()
