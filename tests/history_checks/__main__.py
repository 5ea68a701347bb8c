"""The claims of one system as JSON: python tests/history_checks NAME [--quick] [--controls] [--seed N]

In a process of its own and on one thread, so that several can be checked at a time.
"""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")]  # of this checkout

from history_checks.reproduction_claims import claims_of  # noqa: E402

if __name__ == "__main__":
    parser = ArgumentParser(prog="python tests/history_checks")
    parser.add_argument("name")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--controls", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    json.dump(claims_of(asked.name, asked.quick, asked.seed, asked.controls).to_dict("records"), sys.stdout)
