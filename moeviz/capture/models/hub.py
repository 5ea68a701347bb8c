"""Whether the hub answers: asked once and shortly, since transformers would ask five times and wait in between."""

import logging
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

log = logging.getLogger("moeviz.capture")
SECONDS = 5  # that the hub has to answer


def reach(source: str, revision: str | None = None) -> dict[str, bool]:
    """The options with which transformers finds this model soon: those of a folder, of the cache, or of the hub.

    A folder, and what has been downloaded before, needs no hub. For anything else one request says whether there is
    one: where it does not answer, only the cache is looked into, and transformers says at once what it lacks.
    """
    try:
        if Path(source).is_dir() or try_to_load_from_cache(source, "config.json", revision=revision):
            return {}
        get_hf_file_metadata(hf_hub_url(source, "config.json", revision=revision), timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return {}  # it answers, or the name is none of its: transformers has a sentence for either
    except Exception as error:  # of whatever library makes the connection
        log.debug("the hub does not answer: %s", error)
        return {"local_files_only": True}
    return {}
