"""Tabs whose time is over: let go without another one coming or going."""

from types import SimpleNamespace

import pytest
from streamlit.runtime.memory_session_storage import MemorySessionStorage
from streamlit.runtime.session_manager import SessionInfo

from moeviz_app.server import asgi


class Session:
    """What of a session of Streamlit's counts here."""

    def __init__(self, name: str) -> None:
        self.id, self.ended = name, False

    def shutdown(self) -> None:
        self.ended = True


@pytest.fixture
def kept(monkeypatch):
    """Keep a session whose tab is gone, for so many seconds."""

    def keep(seconds: float) -> Session:
        storage, session = MemorySessionStorage(ttl_seconds=seconds), Session("a tab")
        storage.save(SessionInfo(client=None, session=session, script_run_count=1))
        runtime = SimpleNamespace(_session_mgr=SimpleNamespace(_session_storage=storage))
        monkeypatch.setattr(asgi.Runtime, "exists", lambda: True)
        monkeypatch.setattr(asgi.Runtime, "instance", lambda: runtime)
        return session

    return keep


def test_a_session_that_is_over_its_time_ends(kept):
    session = kept(0)
    assert asgi.end_expired_sessions() == 1 and session.ended
    assert asgi.end_expired_sessions() == 0


def test_a_session_within_its_time_stays(kept):
    session = kept(1000)
    assert asgi.end_expired_sessions() == 0 and not session.ended


def test_without_a_server_there_is_nothing_to_do(monkeypatch):
    monkeypatch.setattr(asgi.Runtime, "exists", lambda: False)
    assert asgi.end_expired_sessions() == 0
