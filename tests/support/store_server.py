"""A store that speaks S3's protocol, on this machine, with one bucket."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from servers import end_with_parent, free_port
from waiting import until

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "bucket"


@contextmanager
def store_server() -> Iterator[dict[str, str]]:
    """The environment in which its bucket is s3://bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | KEYS, preexec_fn=end_with_parent, **quiet) as server:
        try:
            listening(port, server)
            environment = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
            make_bucket(f"127.0.0.1:{port}")
            yield environment
        finally:
            server.terminate()


def listening(port: int, server: subprocess.Popen) -> None:
    """Return when it takes calls. Raises where it has ended, or never does."""

    def takes_calls() -> bool:
        if server.poll() is not None:
            raise AssertionError(f"The store ended with {server.returncode}.")
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        return False

    until(takes_calls)


def make_bucket(endpoint: str) -> None:
    """The bucket, which no part of moeviz ever makes."""
    from pyarrow.fs import S3FileSystem

    keys = {"access_key": "tests", "secret_key": "tests", "region": "us-east-1"}
    S3FileSystem(**keys, endpoint_override=endpoint, scheme="http", allow_bucket_creation=True).create_dir(BUCKET)
