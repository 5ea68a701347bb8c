"""A store that speaks S3's protocol, on this machine, with one bucket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}
BUCKET = "bucket"


@contextmanager
def store_server() -> Iterator[dict[str, str]]:
    """The environment in which its bucket is s3://bucket."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | KEYS, **quiet) as server:
        try:
            listening(port, server)
            environment = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
            make_bucket(f"127.0.0.1:{port}")
            yield environment
        finally:
            server.terminate()


def listening(port: int, server: subprocess.Popen) -> None:
    """Return when it takes calls. Raises where it has ended."""
    while server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"The store ended with {server.returncode}.")


def make_bucket(endpoint: str) -> None:
    """The bucket, which no part of moeviz ever makes."""
    from pyarrow.fs import S3FileSystem

    keys = {"access_key": "tests", "secret_key": "tests", "region": "us-east-1"}
    S3FileSystem(**keys, endpoint_override=endpoint, scheme="http", allow_bucket_creation=True).create_dir(BUCKET)
