"""The house as a table: who may import whom, and what is found in the files.

    python tests/house.py [FOLDER]     print the rooms of a checkout (this one), their arrows, and circles

A room is a folder; a file that lies directly in moeviz/ or app/moeviz_app/ is a room by itself, and so is an entry
(`main.py`, `__main__.py`, the front door `moeviz/__init__.py`). Imports inside functions count, and so do imports by
string:
`import_module("…")`, its f-strings (each `{…}` is any one name), and every string that names a module of ours.
That Python runs a package's `__init__.py` before its modules does not count.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("app", "moeviz", "kernels", "models/evaluate", "models/training")
PACKAGES = {
    "moeviz_app": "app/moeviz_app",
    "moe_kernels": "kernels/moe_kernels",
    "moeviz": "moeviz",
    "models": "models",
}
# What a string begins with that names a module of ours. Packages of others have a `models` too.
NAMED = "|".join(name if name != "models" else r"models(?=\.(?:training|evaluate)\b)" for name in PACKAGES)
HEAVY = {"streamlit", "altair", "torch", "transformers", "accelerate", "triton", "sklearn", "scipy", "hmmlearn", "ray"}
WATCHED = {*PACKAGES, *HEAVY}

INERT = (
    "moeviz._lazy moeviz.errors moeviz.claims moeviz.text moeviz.whole_files moeviz.model_info moeviz.expert_counts "
    "moeviz.expert_outputs moeviz.image_tokens moeviz.next_tokens moeviz.routing_trace"
)
FILES = f"moeviz.file_limits {INERT}"
TORCH = "torch transformers accelerate"
JOBS = "moeviz_app.jobs moeviz_app.server moeviz_app.settings"
SESSION = f"moeviz_app.session {JOBS}"

# Read as: files that match the left may import these, and nothing else that is watched. The first match counts.
# "." is the file's own folder. What stands on top comes first.
MAY_IMPORT = {
    # Programs that use the whole house, and that nothing in it imports: how the model that ships was trained.
    # The training text is what the byte models of the evaluation are fitted to.
    "models/training/evaluation_set.py": f"models.training models.evaluate.byte_models moeviz {TORCH}",
    "models/training/*": f"models.training moeviz {TORCH}",
    "models/evaluate/*": f"models.evaluate moeviz {TORCH}",
    # The app's floors, from the top: each imports its own and what lies below. What computes has no Streamlit, and a
    # component knows no page.
    "app/moeviz_app/main.py": "moeviz_app streamlit",
    "app/moeviz_app/processes.py": "moeviz_app moeviz streamlit torch transformers",
    "app/moeviz_app/views/*": f"moeviz_app.views moeviz_app.widgets moeviz_app.url {SESSION} moeviz streamlit",
    "app/moeviz_app/widgets/components/*": "moeviz_app.widgets.components moeviz streamlit",
    "app/moeviz_app/widgets/*": f"moeviz_app.widgets moeviz_app.url {SESSION} moeviz streamlit",
    "app/moeviz_app/url/*": f"moeviz_app.url {SESSION} moeviz streamlit",
    "app/moeviz_app/session/*": f"{SESSION} moeviz streamlit",
    **dict.fromkeys(
        (f"app/moeviz_app/jobs/{name}.py" for name in ("recorded", "model_catalog", "model_service")),
        f"{JOBS} moeviz streamlit",
    ),
    "app/moeviz_app/jobs/*": f"{JOBS} moeviz",
    "app/moeviz_app/server/*": "moeviz_app.server moeviz_app.settings moeviz streamlit",
    "app/moeviz_app/*": "moeviz",
    "moeviz/__init__.py": "moeviz",
    "moeviz/__main__.py": "moeviz.cli",
    "moeviz/quick_view.py": f"moeviz.capture moeviz.report {INERT}",
    "moeviz/checks.py": f"moeviz.analyses moeviz.capture moeviz.metrics {INERT} transformers",
    "moeviz/recorded_answers.py": f"moeviz.analyses moeviz.embedded moeviz.metrics {INERT}",
    "moeviz/launch.py": f"moeviz.cli moeviz.formats {INERT}",
    "moeviz/cli/*": "moeviz transformers",
    # The systems of the history know nothing of each other; what several are made of is in `shared`.
    "moeviz/history/hierarchical_1994/*": ". moeviz.history.shared moeviz.history.local_experts_1991 moeviz.charts "
    f"{INERT} altair",  # its rival is the gradient descent of 1991
    # It is learned once more by a decoder as Mixtral's.
    "moeviz/history/phone_book/*": f". moeviz.history.shared moeviz.history.dense_contrast {INERT} torch",
    # What others published of it is no data set of the history's own.
    "moeviz/history/mixtral/exhibit.py": ". moeviz.history.shared.exhibit moeviz.charts moeviz.metrics "
    f"moeviz.published {INERT} altair",
    "moeviz/history/*/exhibit.py": f". moeviz.history.shared moeviz.charts moeviz.metrics.words {INERT} altair",
    "moeviz/history/*/chart.py": ". moeviz.history.shared moeviz.charts altair",
    "moeviz/history/shared/exhibit.py": f". moeviz.charts {INERT} altair",
    "moeviz/history/shared/experts.py": "torch",
    "moeviz/history/shared/*": f". {INERT}",
    "moeviz/history/*/*": f". moeviz.history.shared {INERT} torch sklearn scipy hmmlearn",
    # It is told of all systems, and of models that are moeviz's own.
    "moeviz/history/story.py": "moeviz.history moeviz.metrics "
    f"moeviz.embedded.recorded_routing moeviz.embedded.one_sentence moeviz.embedded.own_models {INERT}",
    "moeviz/history/*": f"moeviz.history {INERT}",
    # A corpus past what fits into memory: from a model to a dataset on disk, and the metrics' numbers of it.
    "moeviz/corpus/on_ray.py": f". moeviz.capture moeviz.formats.dataset {FILES} torch ray",
    "moeviz/corpus/*": f". moeviz.capture moeviz.formats.dataset moeviz.labelled_texts moeviz.metrics {FILES} torch",
    # A question each: what a model's routing rests on, what a change costs, what checkpoints have in common.
    "moeviz/analyses/*": f"moeviz.analyses moeviz.capture moeviz.metrics moeviz.embedded {FILES} moe_kernels {TORCH}",
    # Models become traces. The rooms stand on each other in this order.
    "moeviz/capture/record/*": ". moeviz.capture.run moeviz.capture.models moeviz.capture.routers "
    "moeviz.capture.interventions "
    f"{INERT} moe_kernels {TORCH}",
    # The engines know the interface that they fill, not each other.
    "moeviz/capture/engines/llama_cpp/*": ". moeviz.capture.engines.engine moeviz.capture.engines.decoding_loop "
    "moeviz.capture.run "
    f"moeviz.capture.models.memory moeviz.gguf_file moeviz.parameters {FILES} {TORCH}",
    # What mlx-lm opens is a folder of transformers' kind: its links, tokenizer and parameters are looked at as there.
    "moeviz/capture/engines/mlx/*": ". moeviz.capture.engines.engine moeviz.capture.engines.decoding_loop "
    "moeviz.capture.run moeviz.capture.models "
    f"moeviz.capture.routers.score_function {INERT} {TORCH}",
    # A server's answer is read as the file of a stranger is: by the same importers, and looked over by the same doctor.
    "moeviz/capture/engines/served/*": ". moeviz.capture.engines.engine moeviz.capture.run moeviz.capture.models "
    f"moeviz.formats.importers moeviz.metrics.doctor {FILES}",
    "moeviz/capture/engines/*": f". moeviz.capture.run moeviz.capture.engines moeviz.parameters {INERT} {TORCH}",
    "moeviz/capture/run/*": f". moeviz.capture.models moeviz.capture.interventions {INERT} {TORCH}",
    # Decisions as tensors: they know no model, and import no torch, since the command line lists them.
    "moeviz/capture/interventions/*": f". {INERT} torch",
    "moeviz/capture/models/*": f". moeviz.capture.routers moeviz.embedded moeviz.parameters {FILES} {TORCH}",
    "moeviz/capture/routers/*": f". {INERT} moe_kernels {TORCH}",
    "moeviz/capture/*": f"moeviz.capture moeviz.embedded moeviz.parameters {INERT} {TORCH}",
    # Traces become numbers, pictures and files.
    "moeviz/embedded/*": f". moeviz.formats {INERT}",
    "moeviz/formats/importers/torch_file.py": f". {FILES} torch",
    "moeviz/formats/importers/imatrix.py": f". moeviz.gguf_file {FILES}",
    "moeviz/formats/importers/*": f". moeviz.metrics.doctor {FILES}",
    # A corpus on disk, shard by shard; nobody who reads one trace needs it.
    "moeviz/formats/dataset/*": f". moeviz.formats.trace_facts {FILES}",
    "moeviz/formats/*": f". moeviz.formats.importers moeviz.file_limits moeviz.report moeviz.spreadsheets {INERT}",
    "moeviz/report/*": f". moeviz.charts moeviz.metrics moeviz.parameters moeviz.spreadsheets {INERT} altair",
    "moeviz/charts/serving.py": f". moeviz.serving moeviz.metrics {INERT} altair",
    "moeviz/charts/training.py": f". moeviz.training.recorded moeviz.metrics {INERT} altair",
    "moeviz/charts/*": f". moeviz.metrics {INERT} altair",
    # What routers do while a model trains: what is written of it and read again needs no torch.
    **dict.fromkeys(
        (f"moeviz/training/{name}.py" for name in ("routing_health", "router_hooks", "callback", "snapshots")),
        f". moeviz.training.recorded moeviz.capture moeviz.formats moeviz.metrics moeviz.text {INERT} {TORCH}",
    ),
    # Its values are what charts know of it.
    "moeviz/training/recorded/*": f". moeviz.metrics {INERT}",
    "moeviz/training/*": f". moeviz.training.recorded moeviz.formats moeviz.metrics {FILES}",
    # What a routing costs to serve, in numbers, and as plans that engines read (one engine's file is torch's).
    "moeviz/serving/plans/*": f". moeviz.serving moeviz.metrics {INERT} torch",
    "moeviz/serving/*": f". moeviz.metrics moeviz.parameters {INERT}",
    "moeviz/metrics/*": f". moeviz.parameters {INERT}",
    # The middle: inert, knows no viewer and no model.
    "moeviz/adapters.py": "moeviz.capture.routers.router_adapters moeviz.errors moeviz.text torch",
    "moeviz/labelled_texts.py": "moeviz.embedded moeviz.errors moeviz.text",
    "moeviz/published/*": INERT,
    "moeviz/testing.py": INERT,
    "moeviz/examples/*": ". moeviz.capture.engines.mlx.installed moeviz.embedded moeviz.formats moeviz.labelled_texts "
    f"moeviz.testing {INERT}",
    "moeviz/parameters.py": "moeviz.model_info",
    "moeviz/routing_trace.py": "moeviz.errors moeviz.model_info moeviz.expert_counts moeviz.expert_outputs "
    "moeviz.image_tokens moeviz.next_tokens moeviz.text moeviz._viewers",
    "moeviz/next_tokens.py": "moeviz.errors",
    "moeviz/expert_outputs.py": "moeviz.errors",
    "moeviz/image_tokens.py": "moeviz.errors",
    "moeviz/expert_counts.py": "moeviz.errors moeviz.model_info moeviz._viewers",
    "moeviz/model_info.py": "moeviz.errors moeviz.text",
    "moeviz/gguf_file.py": "moeviz.file_limits moeviz.errors moeviz.text",
    "moeviz/file_limits.py": "moeviz.errors moeviz.model_info",
    "moeviz/errors.py": "",
    "moeviz/claims.py": "",
    "moeviz/_lazy.py": "moeviz.text moeviz._plain_help",
    "moeviz/text.py": "",
    "moeviz/interrupted.py": "",
    "moeviz/whole_files.py": "",
    "moeviz/spreadsheets.py": "",
    "moeviz/own_folder.py": "moeviz.whole_files",
    "moeviz/_viewers.py": "",
    "moeviz/_plain_help.py": "",
    "kernels/*": "moe_kernels torch triton",
}

Graph = dict[str, set[str]]


def files_of(root: Path) -> list[str]:
    """The Python files of app/, moeviz/, kernels/ and models/, as paths from the root."""
    return sorted(path.relative_to(root).as_posix() for folder in OURS for path in (root / folder).rglob("*.py"))


@cache
def imports(code: str) -> frozenset[str]:
    """Everything that a file imports, as dotted names; `*` in one is any one name."""
    tree = ast.parse(code)
    texts = {id(node) for node in _texts(tree)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif id(node) not in texts:
            found |= _named(node)
    return frozenset(found)


def _texts(tree: ast.AST) -> Iterator[ast.AST]:
    """Strings that name nothing to import: docstrings, and the names of loggers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            yield node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "getLogger":
            yield from node.args


def _named(node: ast.AST) -> set[str]:
    """The module that a string names."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        text = "".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)
    else:
        return set()
    ours = re.fullmatch(rf"({NAMED})(\.[\w*]+)+", text)
    return {text} if ours and not text.endswith((".py", ".csv", ".npz", ".json", ".toml")) else set()


def allowed(file: str) -> list[str] | None:
    """What a file may import; None where no row of the table is about it."""
    for pattern, may in MAY_IMPORT.items():
        if fnmatch(file, pattern) and file.count("/") >= pattern.count("/"):
            own = file.rpartition("/")[0].replace("/", ".")
            return [own if word == "." else word for word in may.split()]
    return None


def upward(file: str, code: str) -> set[str]:
    """The watched imports of a file that the table does not allow it."""
    watched = {name for name in imports(code) if name.partition(".")[0] in WATCHED}
    return {name for name in watched if not any(f"{name}.".startswith(f"{may}.") for may in allowed(file) or ())}


def graph_of(root: Path) -> Graph:
    """Which of our files each of them imports."""
    files = {*files_of(root)}
    return {file: set(_targets(imports((root / file).read_text()), files)) - {file} for file in sorted(files)}


def _targets(names: Iterable[str], files: set[str]) -> Iterator[str]:
    for name in names:
        top, _, rest = name.partition(".")
        if top not in PACKAGES:
            continue
        parts = [PACKAGES[top], *rest.split(".")] if rest else [PACKAGES[top]]
        for end in range(len(parts), 0, -1):  # the last parts may be names in a module
            if found := _at("/".join(parts[:end]), files):
                yield from found
                break


def _at(place: str, files: set[str]) -> set[str]:
    """The files that a module's path stands for, with any one name for `*`."""
    exact = {f"{place}.py", f"{place}/__init__.py"} & files
    if "*" not in place:
        return exact
    near = (file for file in files if file.count("/") - place.count("/") in (0, 1))
    return exact | {file for file in near if fnmatch(file, f"{place}.py")}


def room_of(file: str) -> str:
    """The room that a file is in."""
    folder, _, name = file.rpartition("/")
    if folder in ("moeviz", "app/moeviz_app") or name in ("main.py", "__main__.py"):
        return file
    return folder


def floor_of(file: str) -> str:
    """The same, coarser: a folder of `moeviz/` with all that is in it; `app`, `kernels`, `models` are one each."""
    parts = file.split("/")
    return "/".join(parts[:2]) if parts[0] == "moeviz" else parts[0]


def rooms_of(graph: Graph, room: Callable[[str], str] = room_of) -> Graph:
    """Which rooms each room imports from."""
    rooms: Graph = {room(file): set() for file in graph}
    for file, targets in graph.items():
        rooms[room(file)] |= {room(target) for target in targets} - {room(file)}
    return rooms


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The largest sets of nodes of which each leads to every other."""
    reach = {node: _reached(graph, node) for node in graph}
    found = {frozenset(other for other in reach[node] if node in reach[other]) for node in graph if node in reach[node]}
    return [set(circle) for circle in sorted(found, key=sorted)]


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen, ahead = set(), [start]
    while ahead:
        new = graph[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def report(root: Path) -> str:
    """The house in a table."""
    graph = graph_of(root)
    rooms = rooms_of(graph)
    sizes = {room: sum(room_of(file) == room for file in graph) for room in rooms}
    lines = [f"{room:45} {sizes[room]:3} files   -> {', '.join(sorted(rooms[room])) or '-'}" for room in sorted(rooms)]
    arrows, of_files, of_rooms = sum(map(len, rooms.values())), circles(graph), circles(rooms)
    largest = f", the largest of {max(map(len, of_files))} files" if of_files else ""
    coarse = rooms_of(graph, floor_of)
    lines += ["", f"{len(graph)} files in {len(rooms)} rooms, {arrows} arrows between rooms"]
    lines += [f"with each folder of moeviz/ as one: {len(coarse)} rooms, {sum(map(len, coarse.values()))} arrows"]
    lines += [f"circles of files: {len(of_files)}{largest}", f"circles of rooms: {len(of_rooms)}"]
    lines += [f"  {' '.join(sorted(circle))}" for circle in of_rooms]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(report(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT) + "\n")
