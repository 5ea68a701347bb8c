"""The table of formats that other programs write, and how a file of one of them becomes a trace or counts.

To add a format: a file in this folder that ends in `FORMAT = Importer(…)`, and its name in `MODULES`. The first that
recognises a file reads it, unless somebody names a format; none is imported before a file is looked at. Every import is
looked over by the doctor (`moeviz.metrics.doctor`), and what it finds is logged.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import Any

from moeviz.errors import InvalidTrace, MoevizError, NotSaid
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers.arrays import is_safetensors
from moeviz.formats.importers.importer import DAMAGED, Importer, ImportOptions, Opened, Source
from moeviz.routing_trace import Counted
from moeviz.text import quoted

log = logging.getLogger("moeviz.formats")
OTHER_SUFFIXES = (".jsonl", ".npy", ".bin", ".gguf", ".safetensors")  # of single files that hold no pickle
OURS = (b'"moeviz trace v', b'"moeviz counts v')
# In the order in which a file is compared with them.
MODULES = (
    "prime_rl",
    "megatron_response",
    "sglang",
    "lmdeploy",
    "vllm",
    "sglang_recorder",
    "imatrix",
    "megatron_counts",
    "megatron_trace",
    "slime",
    "verl",
    "big_moe_on_edge",
    "reap",
    "esft",
    "tensorrt_llm",
    "atlas",
    "policylang",
    "llama_moe_trace",
    "mbolt",
    "longspear",
    "moewatch",
    "plumb",
    "olmoe",
    "moe_infinity",
    "transformer_lens",
    "router_logits",
    "counts_csv",
    "eplb",
)


@cache
def importers() -> tuple[Importer, ...]:
    """Return every format, in the order in which a file is held against them."""
    return tuple(import_module(f"moeviz.formats.importers.{name}").FORMAT for name in MODULES)


def named(name: str) -> Importer:
    """Return the format of that name. Raises `MoevizError` for an unknown one."""
    for row in importers():
        if row.name == name:
            return row
    raise MoevizError(f"There is no format {quoted(name)}. Choose one of {', '.join(row.name for row in importers())}.")


def is_ours(source: Source) -> bool:
    """Return whether the file says that moeviz wrote it, so that nobody has to look further."""
    return any(mark in source.data[:512] for mark in OURS)


def recognised(source: Source) -> Importer | None:
    """Return the format that recognises the file by its content; None if none does.

    Raises `InvalidTrace`, with the reason, for a file that looks like routing and is not opened.
    """
    row: Importer | None = _with_one_error(partial(_find_format, source), source, "a file of another program")
    return row


def imported(source: Source, row: Importer, options: ImportOptions) -> Opened:
    """Read the trace, or the counts, in a file of that format. What the doctor finds is logged too.

    Raises `InvalidTrace` for a damaged file, and for one that is not routing; `NotSaid` if an option is missing.
    """
    try:
        found: Counted = _with_one_error(lambda: row.read(source, options), source, row.label)
    except NotSaid as error:
        names = dict.fromkeys([*error.names, *(name for name in row.asks if getattr(options, name) is None)])
        raise NotSaid(str(error), tuple(names)) from error
    kind = "counts" if isinstance(found, ExpertCounts) else "a trace"
    log.info("read %s as %s: %s", quoted(source.name), row.label, kind)
    if found.model.caution:
        log.info("%s", found.model.caution)
    if source.left_out:
        caution = " ".join(filter(None, [found.model.caution, *source.left_out]))
        found = replace(found, model=replace(found.model, caution=caution))
    from moeviz.metrics.doctor import examine

    left_out = tuple(source.left_out)
    findings = tuple(examine(found, left_out=left_out)["says"])
    for sentence in findings:
        log.warning("%s", sentence)
    return Opened(found, row.label, findings, left_out)


def _find_format(source: Source) -> Importer | None:
    if why := _why_not(source):
        raise InvalidTrace(why)
    return next((row for row in importers() if row.recognise(source)), None)


def _why_not(source: Source) -> str:
    """Explain why a file that looks like routing is not opened; "" for any other file."""
    data, first = source.data, source.first
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05" and data[1:2] and not is_safetensors(data):
        return (
            "The file is a pickle, which can run programs when it is opened, so it is not. Save arrays or tensors "
            "instead: .npz, .safetensors, or torch.save of only tensors."
        )
    if b"blk." in data[:64] and not data.startswith(b"GGUF"):
        return (
            "The file is an importance matrix in the legacy format, which has no counts of experts. Make it again with "
            "`llama-imatrix --output-format gguf`."
        )
    if isinstance(first, dict) and first.keys() & {"physical_to_logical_map", "physical_expert_map"}:
        return "The file is a placement: it says where experts lie, and not how many tokens they got."
    return ""


def _with_one_error(read: Callable[[], Any], source: Source, what: str) -> Any:
    try:
        return read()
    except MoevizError:
        raise
    except DAMAGED as error:
        raise InvalidTrace(
            f"{quoted(source.name)} was taken for {what}, and cannot be read as such: {type(error).__name__}, "
            f"{str(error)[:100]!r}. It was cut or damaged, or written by a version that we do not know: write it again."
        ) from error
