"""Break the systems of the history one way after another: which claims fail?  python -m benchmarks.mutations [NAME ...]

Each of the 22 mutations changes one place of the source of a system, in a copy of the package in a temporary folder,
and the quick claims of that system are asked there. A mutation that no claim notices is a mechanism that nothing
checks, and the exit code is 1. With names, the mutations of these systems alone. It takes a few minutes.

These are edits of the source; the controls of `moeviz history check --controls` break a claim's own mechanism while it
runs. Only checks count: what is true by construction or read from what ships cannot notice anything.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moeviz.history.shared.claims import MEASURED

PACKAGE = Path(__file__).parent.parent / "moeviz"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One place of a system's source, as it is and as it is broken."""

    system: str  # on the command line
    broken: str  # in words
    file: str  # in moeviz/history
    there: str  # found exactly once
    instead: str


LIKELIHOOD = "local_experts_1991/model.py"
TREE = "hierarchical_1994/model.py"
LOOP = "svm_experts_2002/model.py"
CHAINS = "hmm_experts_1996/hidden_markov.py"
BLOCKS = "conditional_computation_2015/model.py"
LOSSES = "sparsely_gated_2017/model.py"
DEEP = "deep_mixture_2013/model.py"
SWITCH = "switch_2021/model.py"

MUTATIONS = (
    Mutation(
        "local-experts",
        "the third error replaced by the first",
        LIKELIHOOD,
        '"mixture likelihood": mixture_likelihood,',
        '"mixture likelihood": cooperative,',
    ),
    Mutation(
        "local-experts",
        "the third error replaced by the second",
        LIKELIHOOD,
        '"mixture likelihood": mixture_likelihood,',
        '"mixture likelihood": competitive,',
    ),
    Mutation(
        "local-experts", "gate frozen", LIKELIHOOD, "gate = gate - step * mine.T @ by_logit / len(mine)", "gate = gate"
    ),
    Mutation(
        "hierarchical",
        "root gate frozen",
        TREE,
        "return Tree(fitted(tree.root, inputs, branch[:, 1], everyone), ",
        "return Tree(0 * tree.root, ",
    ),
    Mutation(
        "hierarchical",
        "lower gates frozen",
        TREE,
        "np.stack(gates), np.stack(experts))",
        "0 * np.stack(gates), np.stack(experts))",
    ),
    Mutation(
        "svm-experts",
        "experts learn from shuffled classes",
        LOOP,
        "classes = rng.permutation(task.odd) if shuffled else task.odd",
        "classes = rng.permutation(task.odd)",
    ),
    Mutation("svm-experts", "capacity ignored", LOOP, "return -(-examples // experts) + room", "return examples"),
    Mutation(
        "svm-experts",
        "parts never dealt again",
        LOOP,
        "part = assign(weights, capacity, rng)",
        "part = part",
    ),
    Mutation(
        "hmm-experts",
        "uniform transitions",
        CHAINS,
        "transitions=_proportions(moved + SEEN_TRANSITIONS)",
        "transitions=_proportions(0 * moved + SEEN_TRANSITIONS)",
    ),
    Mutation("hmm-experts", "soft EM made hard", CHAINS, 'if assignment == "hard":', "if True:"),
    Mutation(
        "conditional", "policy gradient off", BLOCKS, "* log_probability).mean()", "* 0 * log_probability).mean()"
    ),
    Mutation(
        "conditional",
        "policy gradient's sign flipped",
        BLOCKS,
        "* log_probability).mean()",
        "* -log_probability).mean()",
    ),
    Mutation("conditional", "no baseline", BLOCKS, "(cost.detach() - baseline)", "cost.detach()"),
    Mutation(
        "sparsely-gated",
        "load loss removed",
        LOSSES,
        "+ load * squared_variation(routing.load)",
        "+ 0 * squared_variation(routing.load)",
    ),
    Mutation(
        "sparsely-gated",
        "importance loss removed",
        LOSSES,
        "return importance * squared_variation(routing.importance)",
        "return 0 * squared_variation(routing.importance)",
    ),
    Mutation(
        "sparsely-gated",
        "noise off",
        LOSSES,
        "scores = clean if noise is None else clean + noise * deviation",
        "scores = clean",
    ),
    Mutation(
        "deep-mixture",
        "constraint ignored",
        DEEP,
        "ahead = totals - totals.mean() > margin",
        "ahead = totals - totals.mean() > float('inf')",
    ),
    Mutation(
        "deep-mixture",
        "the gate of the second layer uniform",
        DEEP,
        "gates.append(balanced(logits[-1], total, margin))",
        "gates.append(balanced(logits[-1] * (not gates), total, margin))",
    ),
    Mutation(
        "switch",
        "answers not scaled by the router",
        SWITCH,
        "answered = answers.flatten(0, 1)[slots] * gate[rows, None]",
        "answered = answers.flatten(0, 1)[slots]",
    ),
    Mutation("switch", "the router's weights never learn", SWITCH, "read @ self.router", "read @ self.router.detach()"),
    Mutation(
        "switch",
        "capacity ignored",
        SWITCH,
        "room = capacity(len(tokens), self.experts, self.capacity_factor)",
        "room = len(tokens)",
    ),
    Mutation(
        "dense",
        "the router says the same for every word",
        "dense_contrast/model.py",
        "logits = F.linear(x, self.router)",
        "logits = F.linear(x, self.router) * 0 + torch.arange(len(self.router), dtype=x.dtype)",
    ),
)


def mutated(mutation: Mutation, root: Path) -> None:
    """Put a copy of the package with this mutation into a folder.

    Raises `ValueError` where the source has changed, so that the place is not there exactly once.
    """
    shutil.copytree(PACKAGE, root / "moeviz", ignore=shutil.ignore_patterns("__pycache__"))
    file = root / "moeviz" / "history" / mutation.file
    source = file.read_text()
    if (times := source.count(mutation.there)) != 1:
        raise ValueError(f"{mutation.file} has {mutation.there!r} {times} times, and it has to be there once.")
    file.write_text(source.replace(mutation.there, mutation.instead))


def failing(mutation: Mutation) -> tuple[list[str], int]:
    """The checks that fail of a mutated system, and how many were asked."""
    with tempfile.TemporaryDirectory() as folder:
        mutated(mutation, Path(folder))
        command = [sys.executable, "-m", "moeviz.history", mutation.system, "--quick"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    checks = [row for row in json.loads(done.stdout) if row["kind"] == MEASURED]
    return [row["what"] for row in checks if not row["passed"]], len(checks)


def results(names: Sequence[str] = ()) -> Iterator[tuple[Mutation, list[str], int]]:
    """Every mutation of these systems, or of all, with what `failing` says of it."""
    for mutation in MUTATIONS:
        if not names or mutation.system in names:
            yield mutation, *failing(mutation)


if __name__ == "__main__":
    unnoticed = 0
    for mutation, failed, asked in results(sys.argv[1:]):
        unnoticed += not failed
        print(f"{mutation.system}: {mutation.broken}: {len(failed)} of {asked} checks fail", flush=True)
        for what in failed or ["NOT NOTICED"]:
            print(f"    {what}", flush=True)
    print(f"{unnoticed} not noticed")
    sys.exit(bool(unnoticed))
