"""Tabs whose time is over: let go without another one coming or going."""

import asyncio
from types import SimpleNamespace

import coroutines
import pytest
from moeviz_app.server import idle
from streamlit.runtime.memory_session_storage import MemorySessionStorage
from streamlit.runtime.session_manager import SessionInfo


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
        monkeypatch.setattr(idle.Runtime, "exists", lambda: True)
        monkeypatch.setattr(idle.Runtime, "instance", lambda: runtime)
        return session

    return keep


def test_a_session_that_is_over_its_time_ends(kept):
    session = kept(0)
    assert idle.let_go() == 1 and session.ended
    assert idle.let_go() == 0


def test_a_session_within_its_time_stays(kept):
    session = kept(1000)
    assert idle.let_go() == 0 and not session.ended


def test_without_a_server_there_is_nothing_to_do(monkeypatch):
    monkeypatch.setattr(idle.Runtime, "exists", lambda: False)
    assert idle.let_go() == 0


def test_it_is_looked_again_and_again_until_the_server_ends(monkeypatch):
    looked = []
    monkeypatch.setattr(idle, "EVERY", 0)
    monkeypatch.setattr(idle, "let_go", lambda: looked.append(1))

    async def serve() -> None:
        looking = asyncio.create_task(idle.let_go_of_idle_tabs())
        while len(looked) < 3:
            await asyncio.sleep(0)
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking

    coroutines.run(serve())
