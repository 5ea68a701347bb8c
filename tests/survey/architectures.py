"""Open a tiny random checkpoint of an architecture by name, and hold its traces against what its experts received.

The checkpoint is the whole model that people have, saved to a folder; its routers spread their choices, with selection
biases that change them. Recording must not change a bit of the output, and the trace must be what the experts received,
to the last bit. Then the same with the routers run by our kernels, where the check that precedes every swap lets them.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
import transformers
from image_models import IDS, image_model, picture
from transformers import PreTrainedModel

from moeviz.capture.models.load import LoadedModel, load_model, model_facts, takes_images
from moeviz.capture.models.parameters import describe
from moeviz.capture.record.assembly import assemble, unrolled
from moeviz.capture.record.hooks import Recording, listen
from moeviz.capture.record.kernel_recording import kernels_recording, recording_of
from moeviz.capture.record.witness import Testimony, witnessed
from moeviz.capture.routers.discovery import LAYER_KIND, Router, find_routers, router_sites
from moeviz.capture.routers.families import NOT_RECORDED, TABLE
from moeviz.capture.routers.kernel_families import FAMILIES
from moeviz.capture.run.prompts import ModelInput, no_generated_tokens
from moeviz.capture.trace import trace as trace_images
from moeviz.cli.main import main
from moeviz.errors import CaptureError
from moeviz.image_tokens import BOX
from moeviz.routing_trace import RoutingTrace
from survey.checkpoints import write_checkpoint
from survey.compare import block_factor, told_of_computing
from survey.tiny_models import CLOSE, read, some_tokens


@dataclass(frozen=True, slots=True)
class ArchitectureFinding:
    """Findings of the survey at one site of an architecture."""

    architecture: str
    opened_as: str  # class of the model that its name opens
    site: str
    routers: tuple[Router, ...]  # as they are in the model, and every class of them once
    trace: RoutingTrace | None  # None for a site that is not recorded
    trouble: str  # how the trace differs from what the experts received; "" where it does not
    kernels: str  # why our kernels do not run some of its routers; "" where they run all
    images: str  # whether it records images, and the box of each token


# Sites that no trace of a text shows, and why.
UNREACHED = {
    ("ernie4_5_vl_moe", "images"): "a text never reaches it",
    ("diffusion_gemma", "decoder"): "it reads noise, not the tokens of a text",
}


def survey(architecture: str) -> list[ArchitectureFinding]:
    """Open an architecture by name, record it site by site, and hold what is recorded against the oracle."""
    with TemporaryDirectory() as folder:
        saved = write_checkpoint(architecture, Path(folder))
        loaded, facts = load_model(folder), model_facts(folder)
        for command in (["trace", "Il fait froid.", "--model", folder, "--json"], ["params", folder, "--json"]):
            with redirect_stdout(StringIO()) as printed:
                done = main(command)
            if done != 0:
                raise CaptureError(f"{architecture}: moeviz {command[0]} ends with {done}: {printed.getvalue()[:200]}")
    if facts.num_experts[: len(loaded.info.num_experts)] != loaded.info.num_experts:
        raise CaptureError(f"{architecture}: the config tells other experts than the model has.")
    kept = dict(saved.named_parameters())
    if trouble := [path for path, values in loaded.model.named_parameters() if not _is_among(path, values, kept)]:
        raise CaptureError(f"{architecture}: opened with other weights than were saved: {trouble[:3]}.")
    return [_finding(architecture, loaded, site) for site in router_sites(loaded.model)]


def _is_among(path: str, values: torch.Tensor, saved: dict[str, torch.Tensor]) -> bool:
    """True if a weight is one that was saved, under the same name or, in a part of the whole, under a longer one."""
    tail = path.removeprefix("model.")
    same = (kept for name, kept in saved.items() if name.endswith(tail) and kept.shape == values.shape)
    return any(torch.equal(kept, values) for kept in same)


def _finding(architecture: str, loaded: LoadedModel, site: str) -> ArchitectureFinding:
    batch, model = some_tokens(), loaded.model
    named = (architecture, type(model).__name__, site)
    if why := UNREACHED.get((architecture, site)):
        return ArchitectureFinding(
            *named, find_routers(model, site), None, f"{NOT_RECORDED}{why}", "its site is not recorded", ""
        )
    run = ModelInput(model, loaded.tokenizer, describe(model, architecture, site=site), batch)
    plain = read(model, batch)
    with witnessed(model) as testimony, listen(model, keep_logits=True, site=site) as recording:
        output = read(model, batch)
    trace = assemble(recording, run, no_generated_tokens(batch))
    trouble = "" if torch.equal(plain, output) else "recording changes what the model computes"
    trouble = trouble or difference_from_oracle(trace, recording, testimony) or _unscaled(model, recording.routers[0])
    kernels = _kernels(run, site, trace)
    return ArchitectureFinding(*named, recording.routers, trace, trouble, kernels, _images(architecture, type(model)))


def _images(architecture: str, opened: type[PreTrainedModel]) -> str:
    """Trace an image, with a processor made of the family's classes, and return what is recorded of it."""
    if not takes_images(opened):
        return ""
    if architecture not in IDS:
        return "not tried"
    model, processor = image_model(architecture)
    tokens = trace_images(model, "What is here?", images=[picture()], processor=processor).tokens
    if not (of_image := tokens[tokens["kind"] == "image"]).size:
        raise CaptureError(f"{architecture}: no token of the image is in the trace.")
    return YES if of_image[[*BOX]].notna().any(axis=None) else "without boxes"


def difference_from_oracle(trace: RoutingTrace, recording: Recording, testimony: Testimony) -> str:
    """How the trace differs from what the experts received; "" where it does not."""
    for layer, router in enumerate(unrolled(recording).routers):
        places = (*router.experts, router.block_path, router.path)
        calls = next((testimony[place] for place in places if testimony.get(place)), None)
        if not calls:
            return f"nothing was witnessed at {router.path}"
        for token, given in enumerate(calls.pop(0)):
            received = {expert: weight for expert, weight in given.items() if weight != 0}
            told = told_of_computing(trace, layer, token, router)
            if set(told) != set(received):
                return f"{router.path}, token {token}: recorded {sorted(told)}, received {sorted(received)}"
            factor = np.float32(router.factor)
            if any(weight is not None and np.float32(weight) * factor != told[e] for e, weight in received.items()):
                return f"{router.path}, token {token}: recorded weights {told}, received {received}"
    return ""


def _unscaled(model: PreTrainedModel, router: Router) -> str:
    """True if the block scales the sum of its experts otherwise than the trace has it."""
    factor = block_factor(model, lambda: read(model, some_tokens()))
    if factor is None or np.isclose(factor, router.factor, rtol=1e-3):
        return ""
    return f"the block multiplies its experts by {factor:.4g}, and the trace by {router.factor:.4g}"


def _kernels(run: ModelInput, site: str, trace: RoutingTrace) -> str:
    """Why our kernels do not run some of the routers; "" where they run all, and then the trace must be the same."""
    try:
        with kernels_recording(run.model, run.batch.input_ids.numel(), site=site) as record:
            read(run.model, run.batch)
            got = assemble(recording_of(record, keep_logits=True), run, no_generated_tokens(run.batch))
    except CaptureError as error:
        return str(error)
    same = (np.sort(got.experts) == np.sort(trace.experts)).all() and np.allclose(got.weights, trace.weights, **CLOSE)
    if not same:
        raise CaptureError(f"{run.info.name}: our kernels decide otherwise than the routers, and were let to.")
    return "; ".join(dict.fromkeys(rows.probed.trouble for rows in record if rows.probed.trouble))


SELECTION = re.compile(r"(correction_bias|balancing_biases|expert_bias)$")
SHARED = re.compile(r"^shared_(?!expert_gate)")
YES = "yes"
OWN = "–"  # the kernels do not run it, so nothing has read these steps off the router
# What is known to differ from what the experts receive, in words; the survey's own are of one token.
KNOWN_TROUBLE = {"nllb_moe": "no: experts 0 and 1 run whatever the router decides (transformers 5.25)"}


def rows_of(findings: list[ArchitectureFinding]) -> Iterator[dict[str, str]]:
    """A row per class of router and site."""
    for finding in findings:
        for router in {router.kind: router for router in finding.routers}.values():
            yield _row(finding, router)


def _row(finding: ArchitectureFinding, router: Router) -> dict[str, str]:
    reasons = {part.partition(" ")[0]: part.partition(" ")[2] for part in finding.kernels.split("; ")}
    if finding.trace is None:
        reasons = {router.kind: finding.kernels}
    elif finding.trace.model.layer_kind == LAYER_KIND:
        reasons = {router.kind: "runs several times a forward"}
    trouble = KNOWN_TROUBLE.get(finding.architecture, finding.trouble) if finding.trouble else YES
    return {
        "architecture": finding.architecture,
        "opened_as": finding.opened_as,
        "router": router.kind,
        "site": finding.site,
        **_gating(finding, router),
        "shared": YES if any(SHARED.search(name) for name, _ in router.block.named_children()) else "",
        "kernels": reasons.get(router.kind, YES),
        "exact": trouble,
        "images": finding.images,
        "remark": router.adapter.remark if router.adapter else "",
    }


def _gating(finding: ArchitectureFinding, router: Router) -> dict[str, str]:
    tensors = [*router.block.named_parameters(), *router.block.named_buffers()]
    scored = finding.trace.model.score_function if finding.trace else "unknown"
    facts = {"score": scored.replace("_", " ")}
    facts["bias"] = YES if any(SELECTION.search(name) for name, _ in tensors) else ""
    if (family := FAMILIES.get(router.kind)) is None:
        return facts | dict.fromkeys(("groups", "renormalised", "scaled"), OWN)
    gating = family.gating(router.module)
    by_config = hasattr(router.module, "norm_topk_prob")
    return facts | {
        "groups": "" if gating.groups == 1 else gating.group_score.replace("_", " "),
        "renormalised": "by config" if by_config else YES if gating.renormalise else "",
        "scaled": YES if gating.scale != 1 or router.factor != 1 else "",
    }


def table_of(architectures: Sequence[str]) -> pd.DataFrame:
    """The table of these architectures, from a survey of each."""
    return pd.DataFrame([row for name in architectures for row in rows_of(survey(name))])


def write_table(table: pd.DataFrame) -> None:
    """Put the table where it ships."""
    TABLE.write_text(f"# transformers {transformers.__version__}\n{table.to_csv(index=False)}")
