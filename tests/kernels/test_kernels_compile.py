"""Every kernel and tile compiles for GPUs that are not here. Its rules stand in `kernels/compile_check.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "kernels" / "compile_check.py"
PARTS = 8
GPUS = ("80", "90", "100", "gfx942")  # one for each part; `make kernels` compiles all for each of nine


@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_every_kernel_compiles_without_spills_and_records_at_little_cost(part):
    """In a process of its own: this one may run kernels in Triton's interpreter, which cannot compile."""
    gpu = GPUS[part % len(GPUS)]
    command = [sys.executable, CHECK, "--part", f"{part}/{PARTS}", "--for", gpu]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{gpu} " in done.stdout and "traced / plain" in done.stdout
