"""Watch a trace grow while the model generates."""

import threading
from collections.abc import Iterator, Sequence
from queue import SimpleQueue

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.assembly import assemble
from moeviz.capture.record.listen import hearing
from moeviz.capture.record.locks import alone
from moeviz.capture.run.decoding import Decoding, Sampling, decode, written
from moeviz.capture.run.prompts import Run, prepare
from moeviz.routing_trace import RoutingTrace


class _Cancelled(BaseException):
    """Nobody waits for the next trace."""


def stream(
    model: LoadedModel | nn.Module | str,
    prompts: str | Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    decoding: Decoding | None = None,
    keep_logits: bool = True,
    site: str | None = None,
) -> Iterator[RoutingTrace]:
    """Yield the growing trace: after the prompts are read, and after each generated token. Arguments as in `trace`.

        for trace in moeviz.stream(model, "Once upon a time", max_new_tokens=50):
            ...

    The last one is what `trace` returns. Generation waits while the loop works on a trace. To cancel, leave the loop,
    or `close()` the generator: the model stops before its next token. The model is being recorded until then.

    Raises what `trace` raises, and `CaptureError` for beams: which of them win is known at the end alone.
    """
    decoding = decoding or Decoding()
    run = prepare(model, prompts, tokenizer, max_new_tokens, site, decoding.copies)
    decoding.check(run.model, len(run.batch.input_ids), sampling or Sampling(), growing=True)
    return _growing(run, max_new_tokens, sampling or Sampling(), decoding, keep_logits, site)


def _growing(
    run: Run, max_new_tokens: int, sampling: Sampling, decoding: Decoding, keep_logits: bool, site: str | None
) -> Iterator[RoutingTrace]:
    """The model runs in a thread of its own, and takes turns with the caller."""
    made: SimpleQueue[RoutingTrace | BaseException | None] = SimpleQueue()
    turns, cancelled = threading.Semaphore(0), threading.Event()

    def work() -> None:
        def hand_over(generated: Tensor) -> None:
            made.put(assemble(recording, run, written(run.model, generated, None, decoding.drafts)))
            turns.acquire()
            if cancelled.is_set():
                raise _Cancelled

        try:
            with hearing(run.model, keep_logits, site) as recording:
                decode(run.model, run.batch, max_new_tokens, sampling, decoding, hand_over)
            made.put(None)
        except BaseException as error:  # raised again where the traces are taken
            made.put(error)

    with alone(run.model):
        worker = threading.Thread(target=work, name="moeviz-stream", daemon=True)
        worker.start()
        try:
            while (trace := made.get()) is not None:
                if isinstance(trace, BaseException):
                    raise trace
                yield trace
                turns.release()
        finally:
            cancelled.set()
            turns.release()
            worker.join()
