"""Files as other programs write them, what is in each, and what a person has to tell beside it.

`expected.json` and `expected.npz` come from the programs that wrote the files; see `tests/data/README.md`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.importer import ImportOptions
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED, Counted

FOLDER = Path(__file__).parents[1] / "data" / "importers"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
READ = [name for name, facts in EXPECTED.items() if facts["kind"] != "refused"]
REFUSED = [name for name in EXPECTED if name not in READ]
SAY_TOP_K = {"tensorrt", "tensorrt_raw", "reap.pt", "moewatch.json"}  # of those that hold counts
NAMES = {"ep": "expert_parallel"}


def options_of(name: str) -> ImportOptions:
    """What the file does not say."""
    facts = EXPECTED[name]
    told = {NAMES.get(option, option): value for option, value in facts.get("options", {}).items()}
    if facts["kind"] == "counts" and name not in SAY_TOP_K:
        told["top_k"] = 2
    if name == "lmdeploy_generate.json":
        told["moe_layers"] = tuple(facts["layers"])
    return ImportOptions(**told)


def expected_arrays(name: str) -> dict[str, np.ndarray]:
    """The numbers that are in the file."""
    with np.load(FOLDER / "expected.npz") as arrays:
        return {key.rpartition("/")[2]: arrays[key] for key in arrays.files if key.rpartition("/")[0] == name}


def arrays_of(counted: Counted) -> dict[str, Any]:
    """The same numbers of what was read. Where nothing was recorded, the expected files have an empty slot."""
    if isinstance(counted, ExpertCounts):
        return {"counts": counted.assignments[0] if counted.group_kind == "all" else counted.assignments}
    tokens = counted.tokens
    return {
        "ids": np.where(counted.experts == NOT_RECORDED, NO_EXPERT, counted.experts),
        "weights": counted.weights,
        "logits": counted.logits,
        "generated": (tokens["phase"] == "generated").to_numpy(),
        **{name: tokens[name].to_numpy() for name in ("token_id", "position", "sequence")},
    }


def differences(counted: Counted, name: str) -> list[str]:
    """Which facts and numbers are not as expected."""
    facts, got, wrong = EXPECTED[name], arrays_of(counted), []
    if list(counted.model.layers) != facts["layers"]:
        wrong.append("layers")
    if "label" in facts and set(counted.tokens["label"]) != {facts["label"]}:
        wrong.append("label")
    for key, wanted in expected_arrays(name).items():
        have = got.get(key)
        if have is None or have.shape != wanted.shape or not np.allclose(have, wanted, atol=1e-6, rtol=0):
            wrong.append(key)
    return wrong


def copied(name: str, folder: Path) -> Path:
    """A copy of the file, or the folder, to spoil."""
    target = folder / name
    if (FOLDER / name).is_dir():
        shutil.copytree(FOLDER / name, target)
    else:
        shutil.copy(FOLDER / name, target)
    return target
