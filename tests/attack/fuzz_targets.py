"""What is fuzzed: each target has valid inputs to begin with, a way to change one, and what is done with it."""

import contextlib
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np

from tests.attack.fuzz_mutations import (
    NUMBERS,
    Mutation,
    mutated_bytes,
    mutated_csv,
    mutated_json,
    mutated_npz,
    mutated_parquet,
)

BUDGET = 2**24
TIMES = 4  # the budget is of a file and what it unpacks to; what is made of that is in memory beside it
FORMATS = ("csv", "parquet", "json", "npz")
DATA = Path(__file__).parents[2] / "tests" / "data"
READERS = (
    "moeviz.formats.exports", "moeviz.formats.csv_file", "moeviz.formats.parquet_file", "moeviz.formats.json_file",
    "moeviz.formats.trace_file", "moeviz.formats.trace_facts", "moeviz.formats.table_facts",
    "moeviz.formats.assignments_table",
)  # fmt: skip
LINKS = (
    "moeviz_app.jobs.run_request",
    "moeviz_app.url.fields",
    "moeviz_app.widgets.expert_links",
    "moeviz_app.widgets.run_options",
)
CLI = ("moeviz.cli.main", "moeviz.cli.options", "moeviz.cli.options", "moeviz.cli.metrics", "moeviz.cli.what_if")


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of input. `execute` says whether it was good; False: refused by a sentence. All else is found."""

    name: str
    suffix: str
    modules: tuple[str, ...]  # of which the lines are counted
    seeds: Callable[[], list[bytes]]
    mutations: tuple[Mutation, ...]
    execute: Callable[[bytes], bool]
    prepare: Callable[[], None] = lambda: None
    most_mb: float | None = None  # that one input may take at once

    def mutate(self, data: bytes, seed: int) -> bytes:
        """Another input, by one of the ways to change it, or by bytes where that way cannot read it."""
        rng = random.Random(seed)
        for mutation in (rng.choice(self.mutations), mutated_bytes):
            with contextlib.suppress(Exception):  # a mutation reads what earlier ones have damaged
                return mutation(data, rng)
        return data


def traces() -> list:
    """Small traces with all that a file can hold."""
    from moeviz.embedded.recorded_routing import example_trace
    from moeviz.testing import sample_trace

    small = sample_trace(tokens=6)
    labelled = small.select(tokens=slice(0, 4))
    labelled = type(labelled)(
        labelled.model, labelled.tokens.assign(label=np.array(["a", "", "=1", "é"], object)).astype({"label": "str"}),
        labelled.experts, labelled.weights,
    )  # fmt: skip
    return [small, labelled, example_trace().select(layers=[0, 1], tokens=slice(0, 5))]


def files(suffix: str) -> list[bytes]:
    """Return those traces in a format."""
    from moeviz.formats.exports import EXPORTS

    (export,) = (export for export in EXPORTS if export.suffix == suffix)
    plain = [b"position,layer,expert\n0,0,1\n0,1,2\n1,0,0\n"] if suffix == ".csv" else []
    return [export.write(trace) for trace in traces()] + plain


def read(suffix: str, data: bytes) -> bool:
    """Read a file; what is read must come back from a file that is written of it."""
    from moeviz.errors import InvalidTrace
    from moeviz.formats.exports import export_for, read_bytes

    try:
        trace = read_bytes(data, f"x{suffix}", BUDGET)
    except InvalidTrace as error:
        check_sentence(str(error))
        return False
    if len(data) % 4 == 0 and trace.experts.size < 10_000:
        trace_file = export_for("x.npz")
        written = trace_file.write(trace)
        assert trace_file.read(written, BUDGET).equals(trace), "it does not come back as it was"
    return True


def check_sentence(text: str) -> None:
    """A sentence is something to read: not empty, not endless, and a page can hold it."""
    assert 10 < len(text) < 3000, f"no sentence: {len(text)} characters"
    text.encode()


def link_seeds() -> list[bytes]:
    """Addresses of several pages: the page, then its query."""
    side = urlencode({"prompt": "Il fait froid.", "model": "embedded", "part": "prompt"})
    queries = [
        (
            "",
            {
                "prompt": "Il fait froid.",
                "model": "embedded",
                "layer": "3",
                "token": "2",
                "seed": "3",
                "temperature": "0.8",
            },
        ),
        (
            "",
            {
                "prompt": "a",
                "model": "/etc",
                "new_tokens": "9",
                "dtype": "float16",
                "device_map": "cuda:0",
                "chat": "True",
            },
        ),
        ("what-if", {"prompt": "a", "change": "mute", "layer": "1", "experts": "1,2", "changed_prompt": "b"}),
        ("what-if", {"change": "experts-per-token", "experts_per_token": "2"}),
        ("what-if", {"change": "swap", "layer": "0", "expert": "1", "with_expert": "2"}),
        ("what-if", {"change": "precision", "precision": "int8"}),
        ("compare", {"first": side, "second": side}),
        ("expert", {"layer": "1", "expert": "2", "seen": "trace", "prompt": "a"}),
    ]
    return [json.dumps([page, query]).encode() for page, query in queries]


def mutated_link(data: bytes, rng: random.Random) -> bytes:
    """One value replaced, by a number, by another's, or by any bytes as a browser sends them."""
    page, query = json.loads(data)
    if query and rng.random() < 0.9:
        key = rng.choice(list(query))
        other = rng.choice(
            [str(rng.choice(NUMBERS)), rng.choice(list(query.values())), "٣", "²", "1e5", "-0", ".", "0.5", ""]
        )
        text = mutated_bytes(query[key].encode(errors="surrogatepass"), rng).decode(errors="replace")
        query[rng.choice([key, key, key, "x", "expert", "system", "site"])] = rng.choice([other, text, text * 50])
        if key in ("first", "second"):
            query[key] = urlencode(dict(parse_qsl(query[key])) | {rng.choice(["part", "seed", "layer"]): other})
    return json.dumps([rng.choice([page, page, "what-if", "compare", "expert", ""]), query]).encode()


def follow(data: bytes) -> bool:
    """What a page does with its query before it draws, with the embedded model's facts; nothing is run."""
    import streamlit as st

    from moeviz.embedded.recorded_routing import example_trace
    from moeviz.errors import MoevizError
    from moeviz_app.jobs.run_request import number_in, run_from_query
    from moeviz_app.session import session
    from moeviz_app.views.menu import ROWS
    from moeviz_app.views.what_if import fill_in_change
    from moeviz_app.widgets.run_options import fill_in

    try:
        page, query = json.loads(data)
        query = {str(key): str(value) for key, value in query.items()}
    except (ValueError, AttributeError, TypeError):
        return False
    st.session_state.clear()
    try:
        if "prompt" in query:
            run = run_from_query(query)
            fill_in(run)
            assert run_from_query(run.parameters()) == run, "a link does not repeat the run that it asks for"
            session.point_at(number_in(query.get("layer")), number_in(query.get("token")))
        addresses = {row.name.lower().replace(" ", "-"): row.address for row in ROWS.values()}
        if (address := addresses.get(page)) is not None:
            address.fill_in(query)
            fill_in_change(example_trace().model)
            address.written()
    except MoevizError as error:
        check_sentence(str(error))
        return False
    return True


def bare_streamlit() -> None:
    """Streamlit without a server is loud about that."""
    import logging

    logging.disable(logging.CRITICAL)
    import moeviz_app.url.fields
    import moeviz_app.widgets.run_options  # noqa: F401


def command_seeds() -> list[bytes]:
    """Every example of every `--help`, and more."""
    import shlex

    from moeviz.cli.main import COMMANDS, parser

    texts = [parser().epilog, *(row["examples"] for row in COMMANDS.values())]
    lines = [line.partition("  #")[0] for text in texts for line in text.splitlines()]
    words = [
        shlex.split(line.strip().partition("  ")[0].partition("|")[0].partition("<")[0])[1:]
        for line in lines
        if "moeviz " in line
    ]
    more = [
        "metrics t.npz --topic tokens --token 0", "metrics t.csv --layers 0 2 --json", "convert t.npz u.csv",
        "convert t.csv u.zip", "params --known --json", "params embedded --context 10 --trace t.npz", "families --json",
        "history list --json", "what-if a --replay t.npz --json", "corpus t.csv t.txt --layer 1 -o u.npz",
    ]  # fmt: skip
    return ["\0".join(each).encode() for each in [*words, *map(str.split, more)] if each and each[0] != "app"]


def mutated_command(data: bytes, rng: random.Random) -> bytes:
    """Words changed, left out, doubled, and numbers that cannot be."""
    words = data.split(b"\0")
    at = rng.randrange(len(words))
    kind = rng.randrange(5)
    if kind == 0:
        del words[at]
    elif kind == 1:
        words.insert(
            at, rng.choice([*words, b"--json", b"--layers", b"--token", b"-o", b"--", b"-", b"t.npz", b"t.parquet"])
        )
    elif kind == 2:
        words[at] = str(rng.choice(NUMBERS)).encode()
    elif kind == 3:
        words[at] = rng.choice(
            [b"t.npz", b"t.csv", b"bad.npz", b"bad.json", b"folder", b"no.npz", b"", b"nan", b"inf", b"1e999"]
        )
    else:
        words[at] = mutated_bytes(words[at], rng)
    return b"\0".join(words)


def command(data: bytes) -> bool:
    """A command line, in a folder of its own; models are not loaded, trained or surveyed."""
    from moeviz.cli.main import main

    words = data.decode(errors="surrogateescape").split("\0")
    if any(word.startswith(("/", "~")) or ".." in word for word in words) or "app" in words:
        return False  # the folder is not to be left, and nothing to be served
    out, said = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    sys.stdin = io.StringIO("a prompt")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    said.flush()
    if code not in (0, None):
        text = said.buffer.getvalue().decode(errors="replace")
        assert text.strip() and "Traceback" not in text, f"exit code {code} without a sentence"
    return code in (0, None)


def folder_of_files() -> None:
    """A folder with good and bad files, to be in; what takes long says that it is not done here."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from moeviz.errors import MoevizError
    from moeviz.formats.exports import write_trace
    from moeviz.testing import sample_trace

    def never(*_: object, **__: object) -> None:
        raise MoevizError("This is not done while the command line is fuzzed.")

    import moeviz.capture.opening
    import moeviz.cli.families
    import moeviz.cli.history

    moeviz.capture.opening.load_model = never
    moeviz.cli.families.differences = never
    moeviz.cli.history.trained = moeviz.cli.history.check = never
    os.chdir(tempfile.mkdtemp(prefix="moeviz-fuzz-"))
    for name in ("t.npz", "t.csv", "t.json", "t.parquet"):
        write_trace(sample_trace(tokens=6), name)
    Path("t.txt").write_text("Il fait froid.")
    Path("bad.npz").write_bytes(b"PK")
    Path("bad.json").write_bytes(b"{}")
    Path("folder").mkdir()


TARGETS = {
    name: Target(
        name,
        f".{name}",
        READERS,
        partial(files, f".{name}"),
        mutations,
        partial(read, f".{name}"),
        most_mb=TIMES * BUDGET / 1e6,
    )
    for name, mutations in {
        "npz": (mutated_npz, mutated_npz, mutated_bytes),
        "csv": (mutated_csv, mutated_csv, mutated_bytes),
        "parquet": (mutated_parquet, mutated_parquet, mutated_bytes),
        "json": (mutated_json, mutated_json, mutated_bytes),
    }.items()
}
TARGETS["links"] = Target("links", ".link", LINKS, link_seeds, (mutated_link,), follow, bare_streamlit)
TARGETS["cli"] = Target("cli", ".words", CLI, command_seeds, (mutated_command,), command, folder_of_files)
