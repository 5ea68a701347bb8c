"""One visitor who uploads small files that mean harm, again and again, and looks at them: for `benchmarks.load`."""

import itertools
import threading

from streamlit.proto.BackMsg_pb2 import BackMsg

from benchmarks.attack import ask
from benchmarks.hostile_tables import TABLES
from benchmarks.tab import Broke, Tab, new_visitor

PAGE = "traces"
SECONDS_BETWEEN = 0.5


def upload_until(over: threading.Event, url: str) -> None:
    """Upload each of the hostile tables in turn, in a tab of its own, until it is over."""
    files = [(f"hostile{suffix}", make()) for suffix, make in TABLES.values()]
    for name, content in itertools.cycle(files):
        if over.is_set():
            return
        with Tab(url, new_visitor()) as tab:
            tab.come(page=PAGE)
            upload(tab, url, name, content)
            tab.come()  # the first page draws what was opened
        over.wait(SECONDS_BETWEEN)


def upload(tab: Tab, url: str, name: str, content: bytes) -> None:
    """Send a file as a browser does, and let the page read it; its answer is read and passed over."""
    _, headers, _ = ask(url, path="/_stcore/health")
    cookie = headers.get("set-cookie", "").partition(";")[0]
    head = f'--b\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
    body = head + content + b"\r\n--b--\r\n"
    form = {
        "Cookie": cookie,
        "X_Xsrftoken": cookie.partition("=")[2],
        "Content_Type": "multipart/form-data; boundary=b",
    }
    status, _, said = ask(url, "PUT", f"/_stcore/upload_file/{tab.session}/1", body, **form)
    if status not in (204, 413):
        raise Broke(f"the upload of {name} was answered with {status}: {said[:80]!r}")
    asked = BackMsg()
    asked.rerun_script.page_name = PAGE
    state = asked.rerun_script.widget_states.widgets.add()
    state.id = tab.uploader
    info = state.file_uploader_state_value.uploaded_file_info.add()
    info.name, info.size, info.file_id, info.file_urls.file_id = name, len(content), "1", "1"
    tab.socket.send(asked.SerializeToString())
    tab.finish()
