"""No test may reach another host: imported by the tests, and by every Python that a test starts (as sitecustomize).

What tries is refused as if there were no network, and a line in the file that MOEVIZ_OUTBOUND names says so, since code
that is tested may well go on without one.
"""

import errno
import ipaddress
import os
import socket
import traceback
from pathlib import Path

LOG = "MOEVIZ_OUTBOUND"
_connect, _connect_ex, _sendto = socket.socket.connect, socket.socket.connect_ex, socket.socket.sendto
_getaddrinfo = socket.getaddrinfo


def is_here(host: object) -> bool:
    """Whether that host is this machine, whatever its name servers say."""
    text = host.decode() if isinstance(host, bytes) else host
    if text in (None, "", "localhost", "0.0.0.0", "::") or text == socket.gethostname():
        return True
    try:
        return ipaddress.ip_address(str(text).partition("%")[0]).is_loopback
    except ValueError:
        return False


def check(host: object) -> None:
    """Write down and refuse what is not."""
    if is_here(host):
        return
    if path := os.environ.get(LOG):
        frames = traceback.extract_stack()[:-2]
        where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-8:]))
        with Path(path).open("a", encoding="utf-8") as log:
            log.write(f"{host!r}: {where}\n")
    raise OSError(errno.ENETUNREACH, "tests have no network")


def _checked(call):
    def checked(self, *arguments):
        address = arguments[-1]
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
            check(address[0])
        return call(self, *arguments)

    return checked


def _getaddrinfo_checked(host, *arguments, **more):
    check(host)
    return _getaddrinfo(host, *arguments, **more)


def stay_here() -> None:
    """Refuse every other host from now on, in this process."""
    socket.socket.connect = _checked(_connect)
    socket.socket.connect_ex = _checked(_connect_ex)
    socket.socket.sendto = _checked(_sendto)
    socket.getaddrinfo = _getaddrinfo_checked


stay_here()
