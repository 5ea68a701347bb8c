"""The two recorders of a job: hooks on the model's own routers, or moeviz's kernels instead of the routers.

Each is a context manager: inside the block the model may run, and what it yields gives the recording so far. The one
with hooks imports nothing that replaces a part of the model.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from moeviz.capture.models.patching import eager_mode
from moeviz.capture.record.divided import OF_IMAGES, is_divided, with_images
from moeviz.capture.record.hooks import ExpectedRouting, Recording, recording_hooks
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.run.generation import expected_rows
from moeviz.capture.run.generation_plan import GenerationPlan
from moeviz.capture.run.prompts import ModelInput
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError

if TYPE_CHECKING:
    from moeviz.capture.record.kernel_parity import ProbedModel

log = logging.getLogger("moeviz.capture")


@dataclass(frozen=True, slots=True)
class CaptureJob:
    """A request, with the model that runs it, the prompts as it reads them, and the settled way to generate."""

    run: ModelInput
    plan: GenerationPlan
    request: CaptureRequest
    why_hooks: str = ""  # why kernels do not run it that were wanted, as a sentence


class KernelsUnavailable(Exception):
    """The kernels cannot run this job, for the reason that it says in a sentence."""


def wants_kernels(job: CaptureJob) -> bool:
    """Return True if kernels must run the routers. "auto": on CUDA, if they know every router of the model."""
    return why_hooks(job) is None


def why_hooks(job: CaptureJob) -> str | None:
    """Return why hooks record the routers, as a sentence; "" if that is the default; None if kernels are wanted."""
    if isinstance(job.request.kernels, bool):
        return None if job.request.kernels else job.why_hooks
    if not _on_cuda(job.run.model) or is_divided(job.run.batch):
        return ""
    if find_spec("triton") is None:
        return "Triton is not installed."
    from moeviz.capture.routers.kernel_families import FAMILIES, OTHERS, why_triton_is_too_old

    if why := why_triton_is_too_old():
        log.info("%s The routers are listened to.", why)
        return why
    kinds = {router.kind for router in find_routers(job.run.model, job.request.site)} - set(FAMILIES)
    return None if not kinds else f"{min(kinds)} {OTHERS.get(min(kinds), 'is not known to moeviz')}."


def _on_cuda(model: PreTrainedModel) -> bool:
    if model.device.type != "meta":
        return model.device.type == "cuda"
    from moeviz.capture.record.private_names import running_device

    return running_device(model).type == "cuda"


@contextmanager
def record_with_hooks(job: CaptureJob) -> Iterator[Callable[[], Recording]]:
    """Record the model's own routers with hooks that keep what they return."""
    model, keep_logits = job.run.model, job.request.keep_logits
    divided = is_divided(job.run.batch)
    if divided and (
        job.request.intervention is not None or job.request.outputs or job.request.site not in (None, "text")
    ):
        raise CaptureError(
            f"In {type(model).__name__} two routers of a layer divide a text with images between them, and both are "
            "recorded as they are. Leave out interventions, outputs and site, or the images."
        )
    hooks = recording_hooks(model, keep_logits, job.request.site)
    others = recording_hooks(model, keep_logits, OF_IMAGES) if divided else nullcontext()
    with _apply_intervention(job) as expected, hooks as recording, others as of_images:
        by = f"{recording.by} ({job.why_hooks.removesuffix('.')})" if job.why_hooks else recording.by
        heard = partial(replace, recording, expected=expected, by=by)
        yield heard if of_images is None else lambda: with_images(heard(), of_images, job.run.batch)


@contextmanager
def record_with_kernels(job: CaptureJob) -> Iterator[Callable[[], Recording]]:
    """Replace the routers by our kernels, which record as they decide; under an intervention hooks record.

    Raises `KernelsUnavailable` if a router decides differently, and `CaptureError` if kernels were asked for by name
    and cannot record the model at all.
    """
    from moeviz.capture.record.kernel_parity import KernelMismatch
    from moeviz.capture.record.kernel_recording import (
        kernels_deciding,
        kernels_recording_probed,
        recorded_by,
        recording_of,
    )

    model, keep_logits = job.run.model, job.request.keep_logits
    with eager_mode(model):
        found = _probe(job)
        by = recorded_by(model, found)
        try:
            if job.request.intervention is None:
                rows = expected_rows(job.run.batch, job.plan)
                with kernels_recording_probed(model, found, rows, keep_logits, by_reference=True) as record:
                    yield lambda: recording_of(record, keep_logits, by)
                return
            hooks = recording_hooks(model, keep_logits, job.request.site)
            with kernels_deciding(model, found), _apply_intervention(job, found) as expected, hooks as recording:
                yield lambda: replace(recording, by=by, expected=expected)
        except KernelMismatch as difference:
            raise KernelsUnavailable(str(difference)) from difference


def _probe(job: CaptureJob) -> "ProbedModel":
    """Probe which routers the kernels can run. Raises `KernelsUnavailable` if they can run no router."""
    from moeviz.capture.record.kernel_parity import probe_once
    from moeviz.capture.record.kernel_recording import log_troubles
    from moeviz.capture.routers.kernel_families import why_triton_is_too_old

    if _on_cuda(job.run.model) and (why := why_triton_is_too_old()):
        raise KernelsUnavailable(why)
    try:
        found = probe_once(job.run.model, job.request.site)
    except CaptureError as error:
        if job.request.kernels is True:
            raise
        raise KernelsUnavailable(str(error)) from error
    if all(router.trouble for router in found.routers):
        raise KernelsUnavailable(f"moeviz's kernels run none of these routers: {found.routers[0].trouble}.")
    log_troubles(found)
    return found


@contextmanager
def _apply_intervention(job: CaptureJob, found: "ProbedModel | None" = None) -> Iterator[ExpectedRouting | None]:
    """Inside the block, the job's intervention changes what routers decide."""
    if job.request.intervention is None:
        yield None
        return
    from moeviz.capture.record.intervening import check_can_change, intervening
    from moeviz.capture.record.kernel_parity import probe_once

    with eager_mode(job.run.model):
        check_can_change(job.run)
        found = found or probe_once(job.run.model, job.request.site)
        with intervening(job.run, found.routers, job.request.intervention) as expected:
            yield expected
