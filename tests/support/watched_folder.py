"""Whether anybody opens a folder or a file in it, as Linux's kernel tells it (inotify)."""

import ctypes
import os
from pathlib import Path
from types import TracebackType

IN_ACCESS, IN_OPEN = 0x1, 0x20


class WatchedFolder:
    """A folder, and how many times something in it was opened or read since the block began."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.libc = folder, ctypes.CDLL(None, use_errno=True)
        self.queue = self.libc.inotify_init1(os.O_NONBLOCK)
        if self.libc.inotify_add_watch(self.queue, os.fsencode(folder), IN_ACCESS | IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} cannot be watched")
        self._seen = 0

    def __enter__(self) -> "WatchedFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        os.close(self.queue)

    @property
    def seen(self) -> int:
        """How many times, in steps of at least one."""
        try:
            while os.read(self.queue, 65536):
                self._seen += 1
        except BlockingIOError:
            return self._seen
        return self._seen
