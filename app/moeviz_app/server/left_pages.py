"""Requests of a page that is left already.

A part of a page (a fragment of Streamlit's) that asks to be drawn anew says which page it is of. If its session has
gone on to another page meanwhile, Streamlit answers under the name of the old one: the browser takes the new page away,
and a part that both pages have is drawn where it has no place, which ends all drawing ("Bad delta path index"). A click
on a link waits for such requests (leaving.js); a choice after which the server changes the page cannot.
"""

from functools import wraps

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession


def drop_requests_of_left_pages() -> None:
    """Let sessions of this process pass over what a part of a page asks that they do not show."""
    request = AppSession.request_rerun

    @wraps(request)
    def of_this_page(session: AppSession, client_state: ClientState | None) -> None:
        is_part = client_state is not None and client_state.fragment_id
        if is_part and client_state.page_script_hash != session._pages_manager.current_page_script_hash:
            return
        request(session, client_state)

    AppSession.request_rerun = of_this_page
