"""`streamlit` with what tests need of a server, and no app has. `servers.py` starts it, by the environment.

MOEVIZ_TESTS_GATE   a path: while a file is there, work on a model stands still once it has told something, until it is
                    cancelled or the file is gone. What a test does meanwhile is never too late.
MOEVIZ_TESTS_SLOW   two numbers, `12,0.7`: every message to the page is so many ms late, and every run of a script takes
                    so many seconds longer, as on a machine that has much else to do.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path

FEW = 4  # generated tokens: then there is something on the page
LOOK = 0.02  # seconds between two looks at the gate


def hold_work(gate: Path) -> None:
    """Work that has told something waits while the gate is shut."""
    from moeviz_app.jobs.fair_queue import _Job

    told = _Job._tell

    def tell(self, news) -> None:
        told(self, news)
        while gate.exists() and is_enough(news) and not self.cancelled.wait(LOOK):
            pass
        self._check()

    _Job._tell = tell


def is_enough(news) -> bool:
    """True if it is more than the beginning of a text: then some tokens of the answer are there."""
    tokens = getattr(news, "tokens", None)
    return tokens is None or int((tokens["phase"] == "generated").sum()) >= FEW


def be_slow(late: float, longer: float) -> None:
    """Messages that are late, by milliseconds, and runs of scripts that take longer, by seconds."""
    from streamlit.runtime.scriptrunner.script_runner import ScriptRunner
    from streamlit.web.server.starlette.starlette_websocket import StarletteSessionClient

    began, finished, never = StarletteSessionClient.__init__, ScriptRunner._on_script_finished, threading.Event()

    def begin(self, websocket) -> None:
        send = websocket.send_bytes

        async def send_late(payload: bytes) -> None:
            await asyncio.sleep(late / 1000)
            await send(payload)

        websocket.send_bytes = send_late
        began(self, websocket)

    def finish(self, *given, **more) -> None:
        never.wait(longer)
        finished(self, *given, **more)

    StarletteSessionClient.__init__, ScriptRunner._on_script_finished = begin, finish


if __name__ == "__main__":
    from streamlit.web.cli import main

    sys.path[0] = str(Path.cwd())  # as `python -m streamlit` has it
    if gate := os.environ.get("MOEVIZ_TESTS_GATE"):
        hold_work(Path(gate))
    if slow := os.environ.get("MOEVIZ_TESTS_SLOW"):
        be_slow(*map(float, slow.split(",")))
    main(prog_name="streamlit")
