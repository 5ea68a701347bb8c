"""Which weights a name stands for: what was computed with a model holds for those alone. Loads nothing."""

import hashlib
from pathlib import Path

from moeviz.embedded.own_models import found_folder, is_own
from moeviz.text import why_no_file

ANOTHER_HOST = ("\\\\", "//")  # how Windows names a folder of one


def weights_identity(name: str, revision: str | None = None) -> str | None:
    """A text that is another for other weights; None where that cannot be known.

    Of a folder, a hash of the names, sizes and times of its configuration and its weights; of an id on the hub, the
    commit. `name` may be a stranger's: no other host is asked.

    >>> weights_identity("some/model", "3f2a"), weights_identity("some/model"), len(weights_identity("embedded"))
    ('3f2a', None, 64)
    """
    if why_no_file(name) or name.startswith(ANOTHER_HOST):
        return revision
    folder = found_folder(name) if is_own(name) else Path(name)
    if folder is None or not folder.is_dir():
        return revision
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    facts = [(file.name, (seen := file.stat()).st_size, seen.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()
