"""The highest memory of this process, as Linux counts it; other systems are not asked.

Not `getrusage`: what it says is never less than the peak of the process that started this one.
"""

from contextlib import suppress
from pathlib import Path


def peak_mb() -> float:
    """Megabytes held at most since `forget_peak`, or since the process began; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), 0.0)


def forget_peak() -> None:
    """Let `peak_mb` begin anew with the memory that is held now, where the system lets it."""
    with suppress(OSError):  # another system, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")
