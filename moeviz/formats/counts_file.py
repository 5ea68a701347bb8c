"""JSON of counts: `ExpertCounts` as it is, and back.

{
  "format":      "moeviz counts v1",
  "model":       {"name": ..., "layers": [...], "num_experts": [...], "top_k": ...},       the fields of ModelInfo
  "groups":      ["github", "book"],             labels or steps; [""] without groups
  "group_kind":  "label",                        "all", "label" or "step"
  "assignments": [[[number, ...], ...], ...],    groups x layers x experts
  "tokens":      [[number, ...], ...]            groups x layers
}
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moeviz.errors import InvalidTrace
from moeviz.expert_counts import ExpertCounts
from moeviz.file_limits import shown
from moeviz.formats.importers.arrays import whole
from moeviz.formats.importers.importer import Source
from moeviz.formats.trace_facts import FORMAT, model_of
from moeviz.routing_trace import Counted, RoutingTrace
from moeviz.text import is_text, quoted
from moeviz.whole_files import write_file

COUNTS_FORMAT = "moeviz counts v1"
SUFFIXES = (".json", ".csv")
KINDS = ("all", "label", "step")


def to_counts_json(counts: ExpertCounts) -> bytes:
    """Write counts as JSON in UTF-8."""
    facts: dict[str, Any] = {"format": COUNTS_FORMAT, "model": asdict(counts.model)}
    facts |= {"groups": counts.groups, "group_kind": counts.group_kind}
    facts |= {"assignments": counts.assignments.tolist(), "tokens": counts.tokens.tolist()}
    return (json.dumps(facts, ensure_ascii=False) + "\n").encode()


def to_counts_csv(counts: ExpertCounts) -> bytes:
    """Write counts as CSV: layer, expert, count, and label or step if they have one; no facts about the model."""
    kind = "" if counts.group_kind == "all" else f",{counts.group_kind}"
    rows = [f"layer,expert,count{kind}"]
    for at, group in enumerate(counts.groups):
        name = "" if not kind else "," + '"{}"'.format(str(group).replace('"', '""'))
        for row, (layer, experts) in enumerate(zip(counts.model.layers, counts.model.num_experts, strict=True)):
            rows += [f"{layer},{e},{counts.assignments[at, row, e]}{name}" for e in range(experts)]
    return ("\n".join(rows) + "\n").encode()


def is_counts(source: Source) -> bool:
    """Return whether the file says that it is counts that moeviz wrote."""
    return b'"moeviz counts v' in source.data[:512]


def counts_in(source: Source) -> ExpertCounts:
    """Read counts from `to_counts_json`. Raises `InvalidTrace` for anything else."""
    content = source.first
    if not isinstance(content, dict) or content.get("format") != COUNTS_FORMAT:
        raise InvalidTrace(f"{quoted(source.name)} is not a whole file of {COUNTS_FORMAT!r}. Write it again.")
    groups, kind = content.get("groups", 0), content.get("group_kind", "")
    known = isinstance(groups, list) and all(type(group) is int or is_text(group) for group in groups)
    if not isinstance(groups, list) or not known or kind not in KINDS:
        raise InvalidTrace(f"The groups of the counts are {shown(groups)} of the kind {shown(kind)}. Write it again.")
    model = model_of({**content, "format": FORMAT})
    assignments, tokens = (
        whole(content.get(name), n, f"The {name}") for name, n in (("assignments", 3), ("tokens", 2))
    )
    shape = (len(groups), len(model.layers), max(model.num_experts))
    if assignments.shape != shape or tokens.shape != shape[:2]:
        raise InvalidTrace(
            f"The assignments and tokens have the shapes {assignments.shape} and {tokens.shape}; by its groups and "
            f"model they must have {shape} and {shape[:2]}. Write it again."
        )
    return ExpertCounts(model, assignments, tokens, tuple(groups), kind)


def counts_alone(counted: Counted) -> ExpertCounts:
    """Return the number of tokens per expert, by label if they have labels: nothing of any one token is in it."""
    if isinstance(counted, RoutingTrace):
        return counted.counts_by_label() if "label" in counted.tokens else counted.counts()
    return counted


def check_counts_target(path: str | Path) -> None:
    """Raise `InvalidTrace` for a file whose suffix no counts have."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InvalidTrace(
            f"Counts are written to {' or '.join(SUFFIXES)} files, and {quoted(Path(path).name)} has another suffix: "
            "other formats have a row for each token, and counts do not say where a token went."
        )


def write_counts(counts: ExpertCounts, path: str | Path) -> None:
    """Write counts to a `.json` file, which keeps everything, or to a `.csv`, which keeps only the numbers.

    Raises `InvalidTrace` for another suffix, and `OSError` if the file cannot be written.

    >>> import moeviz, tempfile
    >>> from moeviz.testing import sample_trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     moeviz.write_counts(sample_trace().counts(), f"{folder}/counts.json")
    ...     int(moeviz.read_counts(f"{folder}/counts.json").assignments.sum())  # 4 layers of 32 tokens of 2 slots
    256
    """
    check_counts_target(path)
    is_json = Path(path).suffix.lower() == ".json"
    write_file(path, to_counts_json(counts) if is_json else to_counts_csv(counts))
