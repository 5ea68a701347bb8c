"""`try/` in the site: a page that runs the embedded model in the browser, with the app's own explorer and atlas.

Its own code is in docs/try; what it takes from the app and from the charts is generated here. Files are in folders
named by a digest of their contents, so that a browser's cache never mixes two releases. `make try` writes it alone:

    python -m _ext.try_page FOLDER [--site ADDRESS] [--at ADDRESS]

site  the address of the documentation that the page links to; without it there is no such link.
at    the address at which the page will be hosted, which previews of shared links need.
"""

import json
import re
import shutil
import sys
from argparse import ArgumentParser
from collections import Counter
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from streamlit.logger import set_log_level

from moeviz import embedded
from moeviz.analyses.occlusion import FILLERS, NUMBER
from moeviz.charts import theme, token_layer_map
from moeviz.charts import token_layer_marks as marks
from moeviz.embedded.recorded_routing import example_trace, reference_routing
from moeviz.metrics import tokens
from moeviz.metrics.atlas import Atlas
from moeviz.metrics.findings import findings
from moeviz.metrics.who_takes import CLASSES, FEW
from moeviz.routing_trace import RoutingTrace
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, TELLING, names_in
from moeviz_app.views.experts import TRIES, answer_to, said_of_names
from moeviz_app.widgets.components import atlas, explorer, read, texts
from moeviz_app.widgets.components.atlas import packed_atlas

OWN = Path(__file__).parents[1] / "try"
MODEL = Path(embedded.__file__).parent
PARTS = ("config.json", "tokenizer.json", "model.safetensors")
MOST_DECIDED = 128  # tokens, each of which is replaced four times: some seconds
PREVIEW = OWN.parent / "pictures" / "first-page-light.png"
LOADER = "vega_loader.js"
EXPERT = "#expert"  # where links to an expert lead: the page itself


def finish(app, error: Exception | None) -> None:
    """Put the page beside the others. Called by Sphinx (`build-finished`)."""
    if error is None and app.builder.format == "html":
        write(Path(app.outdir) / "try", app.config.site_of_try)


def write(folder: Path, site: str = "", at: str = "") -> None:
    """Write the page and all that it loads into an empty folder; `site` and `at` as the module's docstring says."""
    shutil.rmtree(folder, ignore_errors=True)
    model = {name: (MODEL / name).read_bytes() for name in PARTS}
    parts = f"model-{_digest(model)}"
    code = _code(parts, sum(map(len, model.values())))
    own = f"code-{_digest(code)}"
    link = f'<a href="{escape(site)}">All of moeviz</a>' if site else ""
    here = f"{escape(at.rstrip('/'))}/" if at else ""
    text = (OWN / "index.html").read_text("utf-8").replace("HERECODE", here + own)
    text = text.replace("CODE", own).replace("SITE", link)
    page = {"index.html": text.encode()}
    for place, files in ((folder / parts, model), (folder / own, code), (folder, page)):
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)


def made() -> dict[str, Any]:
    """Collect the facts that the page takes from Python: palette, charts, and how tokens are made visible."""
    trace = example_trace()
    names = explorer.packed_names(trace, names_in(reference_routing()))
    alike = explorer.packed_strip(trace)
    of_model = ("layers", "word", "item", "counts", "zero", "slots", "ordered", "palette", "grey")
    return {
        "model": {name: alike[name] for name in of_model},
        "around": {
            "at": None,
            "findings": [],
            "query": {},
            "template": [],
            "stale": False,
            "live": False,
            "names": names,
            "direct": None,
            "mostMutes": explorer.MOST_MUTES,
            "expertPage": EXPERT,
            "loader": LOADER,
        },
        "maps": _maps(trace),
        "lined": marks.LINED,
        "letters": token_layer_map.LETTERS,
        "lineLetters": token_layer_map.LINE_LETTERS,
        "most": theme.MAX_TOKENS,
        "steps": explorer.STEPS,
        "mostBreaks": texts.MOST_LINE_BREAKS,
        "shownAs": tokens.SHOWN_AS,
        "unseen": sorted(tokens.UNSEEN),
        "combining": sorted(tokens.COMBINING),
        "special": tokens.SPECIAL_TOKEN.pattern,
        "part": tokens.PART_OF_CHARACTER.pattern,
        "blanks": [code for code in range(sys.maxunicode + 1) if chr(code).isspace()],
        "decide": {"fillers": FILLERS, "most": NUMBER},
        "mostDecided": MOST_DECIDED,
    }


def example() -> dict[str, Any]:
    """The recorded example, as the app shows it."""
    trace = example_trace()
    found = [explorer.packed_finding(finding) for finding in findings(trace, reference_routing())]
    data = explorer.packed(trace) | {"at": TELLING, "findings": found, "loader": LOADER}
    return {"prompt": EXAMPLES[MIXED], "ids": trace.tokens["token_id"].tolist(), "data": data}


def _maps(trace: RoutingTrace) -> list[dict[str, Any]]:
    """The chart of each kind, and the most tokens that it is of; what a trace brings is to be set."""
    kinds = []
    for most in (marks.WIDEST // marks.ID, marks.LINED, None):
        tokens = most or theme.MAX_TOKENS
        facts = token_layer_map.MapFacts(
            layers=list(trace.model.layers),
            names=[""] * tokens,
            positions=[],
            colours=[theme.expert_colours(count) for count in trace.model.num_experts],
            lines=[],
            beginnings=[],
            slots=trace.model.top_k,
            ordered=trace.ordered,
        )
        kinds.append({"upTo": most, "chart": token_layer_map.map_spec(facts)})
    return kinds


def _code(model: str, size: int) -> dict[str, bytes]:
    own = {
        f"static/js/{file.name}": file.read_bytes() for file in sorted(OWN.iterdir()) if file.suffix in (".js", ".wasm")
    }
    trace = reference_routing()
    names = names_in(trace)
    drawn, found = packed_atlas(trace, names)
    drawn |= {"query": {}, "loader": LOADER, "expertPage": EXPERT}
    frames = {
        name: {"html": html, "css": read(styles, "css")}
        for name, html, styles in (
            ("explorer", explorer.HTML, explorer.STYLES),
            ("atlas", atlas.HTML, atlas.STYLES),
            ("search", atlas.SEARCH_HTML, atlas.SEARCH_STYLES),
        )
    }
    frames["search"] |= {"tries": TRIES, "otherwise": said_of_names(names, found)}
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle(vl_version=version)
    texts = {
        "favicon.svg": (OWN.parent / "_static" / "favicon.svg").read_text("utf-8"),
        "page.css": (OWN / "page.css").read_text("utf-8"),
        "static/js/explorer.js": read(explorer.SCRIPTS, "js"),
        "static/js/atlas.js": read(atlas.SCRIPTS, "js"),
        "static/js/search.js": read(atlas.SEARCH_SCRIPTS, "js"),
        "static/js/vega.js": bundle,
        "made.json": _json(made() | frames | {"folder": model, "bytes": size}),
        "example.json": _json(example()),
        "atlas.json": _json(drawn),
        "words.json": _json(_answers(found, drawn["id"])),
    }
    preview = {"preview.png": PREVIEW.read_bytes()}
    return own | preview | {name: text.encode() for name, text in texts.items()}


def _answers(found: Atlas, id_: int) -> dict[str, Any]:
    """Return who takes each word and sign of the texts that is frequent enough to tell, and each class of tokens."""
    texts = found.trace.tokens.groupby("sequence")["text"].agg("".join)
    times = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text))
    words = {*TRIES, *CLASSES, *(word for word, count in times.items() if count >= FEW)}
    answers = {word: answer_to(found, word, id_) for word in sorted(words)}
    return {word: answer for word, answer in answers.items() if word in TRIES or answer[1]["count"] >= FEW}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _digest(files: dict[str, bytes]) -> str:
    whole = sha256()
    for name, content in sorted(files.items()):
        whole.update(name.encode() + b"\0" + sha256(content).digest())
    return whole.hexdigest()[:12]


def main() -> None:
    """Write the page into the folder that the command line names."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("site", "at"):
        parser.add_argument(f"--{name}", default="", metavar="ADDRESS")
    args = parser.parse_args()
    set_log_level("ERROR")  # Streamlit warns that no server runs, and none needs to
    write(args.folder, args.site, args.at)
    size = sum(file.stat().st_size for file in args.folder.rglob("*") if file.is_file())
    sys.stdout.write(
        f"{args.folder}: {size / 1e6:.0f} MB of static files, for any web host. To see it here: "
        f"python3 -m http.server --directory {args.folder}\n"
    )


if __name__ == "__main__":
    main()
