"""What was made on a click and deleted by Streamlit is there for a while, and not for ever."""

import pytest
from streamlit.runtime import media_file_manager
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.runtime.media_file_storage import MediaFileKind, MediaFileStorageError
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

from moeviz_app.server import downloads
from moeviz_app.server.downloads import DeletedDownloads


@pytest.fixture
def storage() -> MemoryMediaFileStorage:
    return MemoryMediaFileStorage("/media")


@pytest.fixture
def kept(storage) -> DeletedDownloads:
    kept = DeletedDownloads(storage)
    storage.get_file, storage.delete_file = kept.get_file, kept.delete_file
    return kept


def made(storage, data: bytes, kind=MediaFileKind.DOWNLOADABLE) -> str:
    return storage.load_and_get_id(data, "text/csv", kind, "a.csv")


def is_there(storage, file: str) -> bool:
    try:
        return bool(storage.get_file(f"{file}.csv"))
    except MediaFileStorageError:
        return False


def test_a_file_made_on_a_click_outlives_the_ends_of_scripts_until_its_time_is_over(storage, kept, monkeypatch):
    monkeypatch.setattr(media_file_manager, "_get_session_id", lambda: "a tab")
    manager = MediaFileManager(storage)
    url = manager.execute_deferred(manager.add_deferred(lambda: b"a,b", "text/csv", "1.2", "a.csv"))
    for _ in range(9):
        manager.remove_orphaned_files()
    assert storage.get_file(url.rpartition("/")[2]).content == b"a,b"
    monkeypatch.setattr(downloads, "SECONDS", -1.0)
    kept.drop_old()
    assert not is_there(storage, url.rpartition("/")[2].partition(".")[0])


def test_a_file_that_is_made_again_is_not_deleted_with_the_one_before(storage, kept, monkeypatch):
    file = made(storage, b"a,b")
    storage.delete_file(file)
    assert made(storage, b"a,b") == file
    monkeypatch.setattr(downloads, "SECONDS", -1.0)
    kept.drop_old()
    assert is_there(storage, file)


def test_all_together_are_no_larger_than_allowed_but_the_last_stays(storage, kept, monkeypatch):
    monkeypatch.setattr(downloads, "MOST_BYTES", 10)
    files = [made(storage, bytes([number]) * size) for number, size in enumerate((4, 4, 4, 20))]
    found = []
    for file in files:
        storage.delete_file(file)
        found.append([is_there(storage, each) for each in files])
    assert found[1][:2] == [True, True] and found[2][:3] == [False, True, True]
    assert found[3] == [False, False, False, True]


def test_a_picture_goes_at_once_and_what_is_not_there_is_no_error(storage, kept):
    file = made(storage, b"a picture", MediaFileKind.MEDIA)
    for _ in range(2):
        storage.delete_file(file)
        assert not is_there(storage, file)
