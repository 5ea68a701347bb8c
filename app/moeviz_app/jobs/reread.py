"""The tokens of a trace read again: with experts muted, with each earlier token replaced in turn, or in parts.

The model reads the trace's own tokens, generated ones too, so that each row is compared with that of the trace. Each
reading waits in line and is bounded as a run is. Its result is shared: it depends on the tokens and the model alone.
"""

from base64 import b64encode
from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from moeviz.errors import InvalidPrompt
from moeviz.routing_trace import RoutingTrace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.background import Background
from moeviz_app.jobs.fair_queue import InLine, Progress, Tell, wait_for
from moeviz_app.jobs.result_cache import ResultCache
from moeviz_app.jobs.run_request import RunRequest, muted_experts

if TYPE_CHECKING:
    from moeviz.analyses.occlusion import Occlusion
    from moeviz.capture.models.load import LoadedModel

_kept: ResultCache[Any] = ResultCache(128 * 2**20 // settings.SETTINGS.processes)


def muted(
    trace: RoutingTrace,
    run: RunRequest,
    experts: Iterable[tuple[int, int]],
    listen: Callable[[InLine | Progress], None] = lambda _told: None,
) -> RoutingTrace:
    """Return the trace of the same tokens without some experts, with next tokens; on the visitor's own place in line.

    run      the run that made the trace: its model, and how that is opened.
    experts  (layer, expert) each.
    listen   gets the number of turns before it, as in a run. A script that ends meanwhile has cancelled it.

    Raises `CaptureError` for experts that are not there or cannot be muted, `Busy` and `TooOften`, and what runs raise.
    """
    asked = replace(run, mute=muted_experts(experts))
    key = _key(trace, asked)
    if (known := _kept.get(key)) is not None:
        return known
    model_catalog.bring_torch()
    from moeviz.capture.trace import read_again

    def work(loaded: "LoadedModel", _tell: Tell) -> RoutingTrace:
        return read_again(loaded, trace, asked.request())

    model_service.begin_run()
    found = wait_for(model_service.run_on_model(run.model, run.how, work), listen)
    _kept.put(key, found, found.nbytes)
    return found


def occlusion_forwards(trace: RoutingTrace) -> int:
    """Return the most forwards that are needed to find which earlier token decides, for a message before the run.

    Raises `InvalidPrompt` where that is more than is allowed here: of several texts, or of too many tokens.
    """
    model_catalog.bring_torch()
    from moeviz.analyses.occlusion import MOST_TOKENS, most_forwards

    tokens = len(trace.tokens)
    forwards, most = most_forwards(tokens), settings.SETTINGS.max_corpus_chars
    if trace.tokens["sequence"].nunique() != 1:
        raise InvalidPrompt("Which word decided is asked of one text, and this trace has several. Trace one of them.")
    if tokens > MOST_TOKENS or forwards * tokens > most:
        raise InvalidPrompt(
            f"Which word decided would read these {tokens:,} tokens {forwards:,} times, and {most:,} tokens in all are "
            f"read here, of a text of at most {MOST_TOKENS}. Try a shorter text."
        )
    return forwards


def begin_occlusion(trace: RoutingTrace, run: RunRequest) -> Background:
    """Begin to replace each earlier token of a trace, in the background; hold it as long as somebody wants the result.

    Its `news` are (forwards done, in all); `found` is a list with the `Occlusion`; others have their turn between its
    batches, and `stop` ends it at the next. The model is loaded first. Raises what `occlusion_forwards` and runs raise.
    """
    occlusion_forwards(trace)
    from moeviz.analyses.occlusion import occluding
    from moeviz.capture.trace import again_request

    whole = replace(run, mute=())
    asked, key = again_request(trace, whole.request()), _key(trace, whole)

    def work(loaded: "LoadedModel", _tell: Tell) -> Generator[tuple[int, int], None, "Occlusion"]:
        if (known := _kept.get(key)) is not None:
            return known
        found = yield from occluding(loaded, asked)
        _kept.put(key, found, found.flips.nbytes + found.falls.nbytes + found.next.nbytes + found.to.nbytes)
        return found

    model_service.begin_run(dear=True)
    return Background(model_service.dear_runner_on_model(run.model, run.how), [work])


def occlusion_of(trace: RoutingTrace, run: RunRequest) -> "Occlusion | None":
    """Return which earlier tokens decide in a trace; None where that was not found out yet."""
    return _kept.get(_key(trace, replace(run, mute=())))


def attributed(trace: RoutingTrace, run: RunRequest, token: int) -> pd.DataFrame:
    """Return what each part of the model wrote of the choices for one token, by `moeviz.direct_attribution`.

    It takes one forward of the tokens, on the visitor's own place in line. Raises `CaptureError` for a model whose
    logits are no sum of parts, `Busy` and `TooOften`, and what runs raise.
    """
    asked = replace(run, mute=())
    key = ("direct", token, _key(trace, asked))
    if (known := _kept.get(key)) is not None:
        return known
    model_catalog.bring_torch()
    from moeviz.analyses.direct_attribution import attributed as split
    from moeviz.capture.trace import again_request, check_same_texts

    request = again_request(trace, asked.request())

    def work(loaded: "LoadedModel", _tell: Tell) -> pd.DataFrame:
        read, parts = split(loaded, request, token)
        check_same_texts(read, trace)
        return parts[parts["slot"] >= 0].reset_index(drop=True)

    model_service.begin_run()
    found = wait_for(model_service.run_on_model(run.model, run.how, work), lambda _told: None)
    _kept.put(key, found, int(found.memory_usage(deep=True).sum()))
    return found


def compact(found: "Occlusion") -> dict[str, Any]:
    """Return an occlusion for a browser, arrays as base64, little-endian, [layer, token, earlier token].

    flips u8: of four fillers · falls i16: thousandths of the router's score, -32768 where unknown · to u8, or u16 where
    there are more than 255 experts: the expert that most went to, all bits set where none went.
    """
    wide = max(found.trace.model.num_experts) > 255
    to = found.to.astype(np.uint16)  # -1 becomes all bits
    falls = np.where(np.isnan(found.falls), -(2**15), np.round(np.nan_to_num(found.falls) * 1000))
    arrays = {
        "flips": np.round(found.flips * 4).astype("u1"),
        "falls": falls.astype("<i2"),
        "to": to.astype("<u2" if wide else "u1"),
    }
    layers, tokens = found.flips.shape[:2]
    packed = {name: b64encode(values.tobytes()).decode() for name, values in arrays.items()}
    return {"layers": layers, "tokens": tokens, "wide": wide, "fillers": list(found.fillers), **packed}


def forget() -> None:
    """Put all of it away: for tests."""
    _kept.clear()


def _key(trace: RoutingTrace, asked: RunRequest) -> Hashable:
    """Return what a result depends on: the tokens, the model and how it is opened and recorded, and what is muted."""
    rows = trace.tokens[["sequence", "position", "token_id"]].to_numpy().tobytes()
    phases = trace.tokens["phase"].cat.codes.to_numpy().tobytes()
    return trace.model, rows, phases, asked.model, asked.how, asked.site, asked.kernels, asked.mute
