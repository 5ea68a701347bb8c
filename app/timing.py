"""When what happened on the server, for those who measure."""

import sys
import time

from moeviz_app import settings


def log_moment(what: str) -> None:
    """With MOEVIZ_TIMING=1, tell stderr when something happened (seconds since 1970): benchmarks/app.py reads it."""
    if settings.SETTINGS.timing:
        sys.stderr.write(f"moeviz timing: {time.time():.6f} {what}\n")
        sys.stderr.flush()
