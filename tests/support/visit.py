"""A browser without a screen: a web socket session that speaks Streamlit's protocol, for tests and benchmarks."""

from contextlib import ExitStack
from types import TracebackType
from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from tests.support.waiting import SECONDS


class Visit:
    """A visitor's tab. `said` is all that the page was told, in the order of telling, since the last script began.

    session   that the page had before, where it lost its socket and comes back
    """

    def __init__(
        self, url: str, *, origin: str | None = None, headers: dict[str, str] | None = None, session="", **options
    ) -> None:
        at = urlsplit(url)
        scheme = "wss" if at.scheme == "https" else "ws"
        address = f"{scheme}://{at.netloc}{at.path.rstrip('/')}/_stcore/stream"
        self._open = ExitStack()
        opened = connect(
            address,
            subprotocols=["streamlit", *["token", session] * bool(session)],
            origin=origin,
            additional_headers=headers,
            max_size=None,
            open_timeout=SECONDS,
            proxy=None,
            **options,
        )
        self.socket: ClientConnection = self._open.enter_context(opened)
        self.session, self.said = "", []

    def __enter__(self) -> "Visit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._open.close()

    def send(self, query: str = "", page: str = "") -> None:
        """Ask for a page, as a browser does that comes to this address."""
        asked = BackMsg()
        asked.rerun_script.query_string = query
        asked.rerun_script.page_name = page
        self.socket.send(asked.SerializeToString())

    def open(self, query: str = "", page: str = "") -> str:
        """Ask for a page, and wait until its script has ended: all the text in what came."""
        self.send(query, page)
        return self.hear()

    def hear(self) -> str:
        """Wait for the end of a script."""
        self.said = []
        while True:
            message = ForwardMsg()
            message.ParseFromString(self.socket.recv(timeout=SECONDS))
            if message.WhichOneof("type") == "new_session":
                self.session = message.new_session.initialize.session_id or self.session
            self.said.append(message)
            if message.WhichOneof("type") == "script_finished":
                return str(self.said)
