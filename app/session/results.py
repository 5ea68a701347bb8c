"""What took long to compute, for whoever asks again: for the rest of the visit, and for the machine's own user on disk.

On disk it lies in the user's own folder (`moeviz.own_folder`), under a hash of all that it depends on. Nothing of a
visitor from elsewhere is written, and nothing that was written is shown to one.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import pandas as pd
from moeviz_app.server import identity
from moeviz_app.session import session

from moeviz.own_folder import keep_table, kept_table

Depends = Callable[[], str | None]  # all that a result depends on, as a text; None where not all of it is known


def store(name: str, found: Any) -> None:
    """Keep a result under a name that says all that it depends on in this visit."""
    session.keep_result(name, found)


def load(name: str) -> Any:
    """That result; None where it was not computed."""
    return session.result(name)


def store_long(name: str, kind: str, depends: Depends, found: pd.DataFrame) -> None:
    """The same, and for later visits of the machine's own user, in the folder of its kind."""
    store(name, found)
    if identity.may_keep_on_disk() and (all_of_it := depends()) is not None:
        keep_table(kind, _hash(all_of_it), found)


def load_long(name: str, kind: str, depends: Depends) -> pd.DataFrame | None:
    """That result, of this visit or of an earlier one."""
    found: pd.DataFrame | None = load(name)
    if found is None and identity.may_keep_on_disk() and (all_of_it := depends()) is not None:
        found = kept_table(kind, _hash(all_of_it))
        if found is not None:
            store(name, found)
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
