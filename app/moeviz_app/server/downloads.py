"""A file that is made on a click is there until its browser has had time to fetch it.

Streamlit deletes such a file once two scripts have ended, whichever visitor's they are. On a busy server, and on a page
that is still drawing its pictures, they end before the browser has asked for the file, and the click brings nothing.
"""

import threading
import time
from collections import OrderedDict

from streamlit.runtime import Runtime
from streamlit.runtime.media_file_storage import MediaFileKind, MediaFileStorageError
from streamlit.runtime.memory_media_file_storage import MemoryFile, MemoryMediaFileStorage

SECONDS = 60.0  # from when Streamlit deletes it
MOST_BYTES = 64 * 2**20  # of all of them; the last one stays even if it is larger


class DeletedDownloads:
    """Downloads that Streamlit has deleted, kept for `SECONDS`, with at most `MOST_BYTES` in total."""

    def __init__(self, storage: MemoryMediaFileStorage) -> None:
        self._get, self._delete = storage.get_file, storage.delete_file
        self._files: OrderedDict[str, tuple[float, MemoryFile]] = OrderedDict()  # by id, the first deleted first
        self._lock = threading.Lock()

    def get_file(self, filename: str) -> MemoryFile:
        """Return a file of the storage, or one that it has deleted. Raises `MediaFileStorageError` if there is none."""
        try:
            return self._get(filename)
        except MediaFileStorageError:
            with self._lock:
                _, file = self._files.get(filename.partition(".")[0], (0.0, None))
            if file is None:
                raise
            return file

    def delete_file(self, file_id: str) -> None:
        """Delete a file of the storage; a download is kept here. A file that is not there is no error."""
        try:
            file = self._get(file_id)
        except MediaFileStorageError:
            return
        if file.kind == MediaFileKind.DOWNLOADABLE:
            with self._lock:
                self._files[file_id] = time.monotonic(), file
                self._files.move_to_end(file_id)
        self._delete(file_id)
        self.drop_old()

    def drop_old(self) -> None:
        """Let go of those whose time is over, and of the first ones while all are too large together."""
        with self._lock:
            total = sum(len(file.content) for _, file in self._files.values())
            while self._files:
                since, file = next(iter(self._files.values()))
                is_over = time.monotonic() - since > SECONDS
                if not is_over and (total <= MOST_BYTES or len(self._files) == 1):
                    return
                self._files.popitem(last=False)
                total -= len(file.content)


def keep_deleted_downloads() -> DeletedDownloads | None:
    """Let this server's storage keep the downloads that Streamlit deletes; None if Streamlit is not running."""
    if not Runtime.exists():
        return None
    storage = Runtime.instance().media_file_mgr._storage
    assert isinstance(storage, MemoryMediaFileStorage)
    kept = DeletedDownloads(storage)
    storage.get_file, storage.delete_file = kept.get_file, kept.delete_file  # type: ignore[method-assign]
    return kept
