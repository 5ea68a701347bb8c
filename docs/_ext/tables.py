"""Tables of the site, each from the table in the code that it is about."""

import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from _ext.charts_need import needs
from _ext.words import MORE

ROOT = Path(__file__).parents[2]
READERS = ("student", "researcher", "serving-engineer", "trainer")  # the order of their tutorials


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""A table in Markdown.

    >>> table(["a", "b"], [(1, "x|y")])
    '| a | b |\n| --- | --- |\n| 1 | x\\|y |'
    """
    lines = [head, ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def contents(folder: str, caption: str) -> str:
    """A table of contents of the pages in a folder; nothing where it has none."""
    names = [page.stem for page in (ROOT / "docs" / folder).glob("*.md")]
    names.sort(key=lambda name: (READERS.index(name) if name in READERS else len(READERS), name))
    lines = "\n".join(f"{folder}/{name}" for name in names)
    return f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{lines}\n```" if names else ""


def importers() -> str:
    """The formats of other programs: what recognises a file, what it becomes, and what must be told."""
    from moeviz.formats.importers.importer import flag
    from moeviz.formats.importers.table import importers as formats

    def flags(names: Sequence[str]) -> str:
        return ", ".join(f"`{flag(name)}`" for name in names)

    rows = [(f"`{r.name}`", r.label, r.looks_for, r.becomes, flags(r.asks), flags(r.may_ask)) for r in formats()]
    return table(["name", "files", "recognised by", "becomes", "must be told", "may have to be told"], rows)


def families() -> str:
    """How moeviz reads each architecture of transformers."""
    from moeviz.capture.routers.families import families as read

    frame = read().drop(columns="exact")
    return table([*frame], frame.to_numpy().tolist())


def interventions() -> str:
    """Which changes of the routing which architectures obey, and the sentence of each refusal."""
    from moeviz.capture.routers.families import OBEYED
    from moeviz.capture.routers.families import interventions as read

    frame = read()
    kinds = [name for name in frame if name not in ("architecture", "router", "site", "kernels")]
    whole = frame[(frame[kinds] == OBEYED).all(axis=1)]
    rest = frame.drop(whole.index).to_dict("records")
    rows = [
        (row["architecture"], row["site"], ", ".join(kind for kind in kinds if row[kind] == said) or "none", said)
        for row in rest
        for said in dict.fromkeys(row[kind] for kind in kinds if row[kind] != OBEYED)
    ]
    cells = frame[kinds].to_numpy().ravel()
    return (
        f"**{(cells == OBEYED).sum()} of {len(cells)} changes are obeyed; the others are refused with the sentences "
        f"below.** All of {', '.join(kinds)} are obeyed by:\n\n{_names(whole)}.\n\n"
        + table(("architecture", "site", "refused", "what moeviz says"), rows)
    )


def by_kernels() -> str:
    """Which architectures the kernels record as hooks do, and why the others are not run by them."""
    from moeviz.capture.routers.families import interventions as read

    frame = read()
    alike = frame[frame["kernels"] == "equal"]
    rows = frame.drop(alike.index)[["architecture", "router", "site", "kernels"]].to_numpy().tolist()
    return f"Equal: {_names(alike)}.\n\n" + table(("architecture", "router", "site", "what moeviz says"), rows)


def _names(frame) -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(frame["architecture"]))


def known_models() -> str:
    """Our counts of well-known models, beside what their makers say."""
    from moeviz.capture.models.known_models import known_counts

    head = ("model", "total", "published", "active", "published", "active counts", "remark")
    rows = known_counts().itertuples(index=False)
    return table(head, (_counted(row) for row in rows))


def _counted(row) -> tuple[str, ...]:
    figures = (row.total, row.published_total, row.active, row.published_active)
    return (
        row.model,
        *("" if figure != figure else f"{figure:.4g}" for figure in figures),
        row.convention,
        row.remark,
    )


def ways() -> str:
    """Every way of running that is held against what the experts received, and what came of it."""
    from survey.modes import FAMILIES
    from survey.ways import counted, surveyed_ways

    found = surveyed_ways()
    rows = [(row.way, *(n or "" for n in (row.equal, row.refused, row.not_tried))) for row in found.itertuples()]
    families = ", ".join(f"`{family}`" for family in FAMILIES)
    columns = ("way of running", "architectures: equal", "refused", "cannot be tried")
    return f"{table(columns, rows)}\n\nIn all: {counted(found)}. Where twelve were tried, they are {families}."


def topics() -> str:
    """Every chart of a trace: its question, how it is read, what it needs."""
    from moeviz.charts import TOPICS

    parts = []
    for topic, charts in TOPICS.items():
        rows = [
            (f"[{chart.question}](/gallery/charts.md#{anchor(chart.question)})", chart.reading, needs(chart))
            for chart in charts
        ]
        parts += [f"## {topic}", table(("question", "how to read the answer", "needs"), rows)]
    return "\n\n".join(parts)


def anchor(heading: str) -> str:
    """The anchor that MyST gives a heading, which is GitHub's.

    >>> anchor("How few experts do most of the work?")
    'how-few-experts-do-most-of-the-work'
    """
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def menu() -> str:
    """The places of the app with the question of each, and the pages that are its tabs."""
    from moeviz_app.views.menu import MENU, QUESTIONS

    rows = ((place, QUESTIONS[place], ", ".join(pages)) for place, pages in MENU.items())
    return table(("place", "its question", "pages"), rows)


def systems() -> str:
    """The systems of the history that can be trained."""
    from moeviz.history.systems import SYSTEMS

    rows = ((row.year, row.title, f"`{name}`", row.summary) for name, row in SYSTEMS.items())
    return table(("year", "page of the app", "name", "what it is"), rows)


def phone_book() -> str:
    """The runs of the phone book that ship: means, and what the seeds differ by."""
    from moeviz.history.phone_book.runs import book_means, book_table

    task = {"book": "book", "controls": "book", "rule": "rule", "decoder": "book, in a small decoder as Mixtral's"}
    rows = (
        (
            row.name,
            task[row.part],
            f"{row.facts:,}",
            f"{100 * row.share:.1f}%",
            f"{100 * row.lowest:.1f} to {100 * row.highest:.1f}%" if row.seeds > 1 else "",
            row.seeds,
        )
        for row in book_means(book_table()).itertuples()
    )
    return table(("network", "task", "learned", "right", "seeds from, to", "seeds"), rows)


def collapse() -> str:
    """The runs of the eight experts that live or die: the lowest and highest figure of ten starts of each cure."""
    from moeviz_app.widgets.components.history import collapse_runs, collapse_table

    heads = ("kept alive by", "dead of 8", "never had a fact", "busiest, %", "dropped, %", "remembered, %")
    return table(heads, collapse_table(collapse_runs()).itertuples(index=False))


def suffixes() -> str:
    """The file formats: how each is called, and whether it is read back."""
    from moeviz.formats.exports import EXPORTS

    rows = ((f"`{row.suffix}`", row.label, f"`{row.mime}`", "yes" if row.read else "no") for row in EXPORTS)
    return table(("suffix", "button in the app", "media type", "read back"), rows)


def engines() -> str:
    """The inference engines for which plans are written."""
    from moeviz.serving.plans.engines import ENGINES

    rows = ((row.title, f"`--engine {name}`", f"`{row.suffix}`", row.reads) for name, row in ENGINES.items())
    return table(("engine", "option", "file", "what it holds"), rows)


def alarms() -> str:
    """The alarms of a training run: when each begins and is over, where its threshold comes from, and what to do."""
    from moeviz.training.recorded.rules import ALARM_KINDS

    rows = ((f"`{kind}`", row.rule, row.until, row.source, row.to_do) for kind, row in ALARM_KINDS.items())
    return table(("alarm", "begins when", "is over when", "source of the threshold", "what to do"), rows)


def settings() -> str:
    """The settings of a deployment: what holds where one is not set, and what it means."""
    from moeviz_app.settings import WAYS
    from moeviz_app.settings import table as rows_of_settings

    return table(("variable", *WAYS, "meaning"), [(f"`{name}`", *rest) for name, *rest in rows_of_settings()])


def streamlit() -> str:
    """The file that says how Streamlit serves the app."""
    return f"```toml\n{(ROOT / 'app/moeviz_app/.streamlit/config.toml').read_text(encoding='utf-8').rstrip()}\n```"


def architecture() -> str:
    """The rooms of the house and their arrows, as `python tests/house.py` prints them."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        import house
    finally:
        sys.path.pop(0)
    return f"```text\n{house.report(ROOT)}\n```"


def glossary() -> str:
    """The words of the field: those of the app's charts, and more."""
    from moeviz_app.widgets.chart_panel import GLOSSARY

    words = MORE | GLOSSARY
    lines = [f"{word}\n  {words[word][0].upper()}{words[word][1:]}" for word in sorted(words, key=str.lower)]
    return "```{glossary}\n" + "\n\n".join(lines) + "\n```"


EXTRAS = {
    "app": "the app in a browser",
    "notebook": "`moeviz.view` and the kernel of a notebook",
    "images": "images in prompts, for models that take them",
    "report": "HTML reports, and charts as SVG",
    "gguf": "GGUF models, in llama.cpp",
    "mlx": "models of mlx-lm",
    "ray": "`moeviz corpus --ray`",
    "training": "event files of TensorBoard",
    "history": "the training of two historical systems",
    "completion": "`moeviz completion`",
}


def extras() -> str:
    """Return the extras that one installs to use moeviz, and what each brings, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    brings = {
        name: ", ".join(re.match(r"[\w-]+", need)[0] for need in project["optional-dependencies"][name])
        for name in EXTRAS
    }
    return table(["extra", "what for", "brings"], [(f"`{name}`", says, brings[name]) for name, says in EXTRAS.items()])
