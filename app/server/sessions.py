"""Tabs that are gone for good, let go in time.

Streamlit keeps the session of a tab whose connection is lost for `server.disconnectedSessionTTL` seconds, in case it
comes back, and after that until another tab comes or goes: on a quiet server for ever, with its traces. This looks
every few seconds.
"""

import asyncio
import gc
from typing import Any

from streamlit.runtime import Runtime

EVERY = 5.0  # seconds


async def end_idle_sessions() -> None:
    """Let go of what is over its time, again and again, in the thread that sessions come and go in."""
    while True:
        await asyncio.sleep(EVERY)
        end_expired_sessions()


def end_expired_sessions() -> int:
    """End the sessions that are over their time; how many there were."""
    if not Runtime.exists():
        return 0
    manager: Any = Runtime.instance()._session_mgr
    over = [kept for _, kept in manager._session_storage._cache.expire()]
    for kept in over:
        kept.session.shutdown()
    number = len(over)
    if over:
        del over, kept
        gc.collect()  # a session is in circles, and Streamlit collects after a script alone
    return number
