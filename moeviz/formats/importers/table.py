"""The table of formats from elsewhere, recognised by what is in a file, and how one of them becomes a trace or counts.

The first row that recognises a file reads it, unless somebody names a format. Every import is looked over by the doctor
(`moeviz.metrics.doctor`), and what it finds is logged.
"""

import logging
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from moeviz.errors import InvalidTrace, MoevizError, NotSaid
from moeviz.expert_counts import ExpertCounts
from moeviz.formats.importers import (
    atlas,
    big_moe_on_edge,
    counts_csv,
    eplb,
    esft,
    imatrix,
    llama_moe_trace,
    lmdeploy,
    longspear,
    mbolt,
    megatron_counts,
    megatron_response,
    megatron_trace,
    moe_infinity,
    moewatch,
    olmoe,
    plumb,
    policylang,
    prime_rl,
    reap,
    router_logits,
    sglang,
    sglang_recorder,
    slime,
    tensorrt_llm,
    transformer_lens,
    verl,
    vllm,
)
from moeviz.formats.importers.not_routing import refuse
from moeviz.formats.importers.options import ImportOptions
from moeviz.formats.importers.source import Source
from moeviz.formats.importers.torch_file import from_torch, is_torch
from moeviz.metrics.doctor import examine
from moeviz.names import quoted
from moeviz.routing_trace import Counted

log = logging.getLogger("moeviz.formats")
Read = Callable[[Source, ImportOptions], Counted]
# What Python's readers raise for bytes that make no sense; each becomes one sentence.
DAMAGED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class Importer:
    """A format that others write: how to know it, what it needs to be told, and how to read it."""

    name: str  # as `--format` takes it
    label: str
    becomes: str  # "trace", "counts", or both
    recognise: Callable[[Source], bool]
    read: Read
    looks_for: str  # what recognises it, for a person
    asks: tuple[str, ...] = ()  # options without which it cannot be read
    may_ask: tuple[str, ...] = ()  # options that some of its files need


def _content(source: Source) -> Any:
    """What a file of torch holds, read once."""
    if "torch" not in source.__dict__:
        source.__dict__["torch"] = from_torch(source.data, source.max_bytes)
    return source.__dict__["torch"]


def _in_torch(recognise: Callable[[Any], bool]) -> Callable[[Source], bool]:
    return lambda source: is_torch(source.data) and recognise(_content(source))


def _of_torch(read: Callable[[Any, Source, ImportOptions], Counted]) -> Read:
    return lambda source, options: read(_content(source), source, options)


def _row(module: ModuleType, name: str, label: str, becomes: str, looks_for: str, **options: Any) -> Importer:
    return Importer(name, label, becomes, module.recognise, module.read, looks_for, **options)


def _torch(module: ModuleType, name: str, label: str, becomes: str, looks_for: str, **options: Any) -> Importer:
    recognise, read = _in_torch(module.recognise), _of_torch(module.read)
    return Importer(name, label, becomes, recognise, read, looks_for, **options)


OTHER_SUFFIXES = (".jsonl", ".npy", ".bin", ".gguf", ".safetensors")  # of single files that hold no pickle
OURS = (b'"moeviz trace v', b'"moeviz counts v')
K, LAYERS = ("top_k",), ("moe_layers",)
RESPONSE = ("start", "experts", "moe_layers")
IMPORTERS = (
    _row(
        prime_rl, "prime-rl", "prime-rl responses", "trace", "JSON with choices[].routed_experts.shape", may_ask=LAYERS
    ),
    _row(
        megatron_response,
        "megatron-response",
        "Megatron-LM responses",
        "trace",
        "JSON with choices[].moe_topk_indices",
        may_ask=("experts",),
    ),
    _row(
        sglang,
        "sglang",
        "SGLang responses",
        "trace",
        "JSON with meta_info or sglext, and base64 in routed_experts",
        asks=("hidden_layers", "top_k"),
        may_ask=RESPONSE,
    ),
    _row(
        lmdeploy,
        "lmdeploy",
        "LMDeploy responses",
        "trace",
        "JSON with meta_info, and lists in routed_experts",
        asks=LAYERS,
        may_ask=("start", "experts"),
    ),
    _row(
        vllm,
        "vllm",
        "vLLM responses, batches and arrays",
        "trace",
        "JSON with choices, lines with custom_id, or .npy of whole numbers with three axes",
        may_ask=RESPONSE,
    ),
    _torch(
        sglang_recorder,
        "sglang-recorder",
        "SGLang's expert distribution recorder (KTransformers too)",
        "trace or counts",
        "a torch file with logical_count, or records and last_physical_to_logical_map",
        may_ask=("top_k", "moe_layers"),
    ),
    _row(imatrix, "imatrix", "llama.cpp importance matrices", "counts", "GGUF of type imatrix", asks=K),
    _row(
        megatron_counts,
        "megatron-counts",
        "Megatron-LM's tokens per expert",
        "counts",
        "tokens_per_expert/rank0.jsonl, or lines with tpe",
        asks=("expert_parallel", "top_k"),
    ),
    _row(
        megatron_trace,
        "megatron-trace",
        "Megatron-LM's routing trace",
        "trace",
        "router_trace_rank0.jsonl, or lines with top_indices",
        may_ask=("experts",),
    ),
    _torch(slime, "slime", "slime rollouts", "trace", "a torch file with samples", may_ask=("experts", "moe_layers")),
    _torch(
        verl,
        "verl",
        "verl batches",
        "trace",
        "a torch file with routed_experts and attention_mask",
        may_ask=("experts", "moe_layers"),
    ),
    _row(big_moe_on_edge, "big-moe-on-edge", "BigMoeOnEdge traces", "trace", "a first line # route_trace v1"),
    _torch(reap, "reap", "REAP's observer", "counts", "a torch file of {layer: {expert_frequency, …}}"),
    _row(
        esft,
        "esft",
        "ESFT's expert weights",
        "trace",
        "a folder with expert_weights_1.txt",
        asks=K,
        may_ask=("experts",),
    ),
    _row(
        tensorrt_llm,
        "tensorrt-llm",
        "TensorRT-LLM's expert statistics",
        "counts",
        "a folder with meta_info.json and rank0.safetensors",
    ),
    _row(
        atlas, "atlas", "Routing Atlas", "trace", "JSON, lines or Parquet with activations of token_idx and expert_idx"
    ),
    _row(
        policylang,
        "policylang",
        "moe-policylang recordings",
        "trace",
        "lines behind a header with num_entries, or Parquet with selected_experts",
        may_ask=("experts",),
    ),
    _row(
        llama_moe_trace,
        "llama-moe-trace",
        "llama.cpp's moe-trace",
        "trace or counts",
        "CSV with layer,expert or phase,token,layer,rank,expert",
        may_ask=("top_k", "experts"),
    ),
    _row(mbolt, "mbolt", "mbolt traces", "trace", "a file that begins with MBLT"),
    _row(longspear, "longspear", "Longspear traces", "trace", "a file that begins with LONGSPEAR_ROUTE_TRACE v1"),
    _row(moewatch, "moewatch", "moewatch reports", "counts", "JSON with metadata.moewatch_version"),
    _row(
        plumb,
        "plumb",
        "plumb reports and snapshots",
        "counts",
        "JSON with expert_counts, or layers and total_forward_passes",
        asks=K,
        may_ask=("experts",),
    ),
    _row(olmoe, "olmoe", "OLMoE's c4_results.jsonl", "trace", "lines with exp_ids", may_ask=("experts",)),
    _row(moe_infinity, "moe-infinity", "MoE-Infinity traces", "counts", ".npy of floats with three axes", asks=K),
    _torch(
        transformer_lens, "transformer-lens", "TransformerLens caches", "trace", "a torch file with hook_expert_indices"
    ),
    Importer(
        "router-logits",
        "router logits of transformers",
        "trace",
        lambda source: _in_torch(router_logits.recognise_torch)(source) or router_logits.recognise(source),
        lambda source, options: (
            router_logits.read_torch(_content(source), source, options)
            if is_torch(source.data)
            else router_logits.read(source, options)
        ),
        "a torch file with a list of tables, .safetensors, or .npz with a number in each name",
        asks=K,
    ),
    _row(
        counts_csv,
        "counts",
        "plain counts, and SGLang 0.4's",
        "counts",
        "CSV with layer,expert,count",
        asks=K,
        may_ask=("experts",),
    ),
    _row(eplb, "eplb", "loads for EPLB", "counts", "a JSON list of lists of numbers", asks=K),
)


class Opened(NamedTuple):
    """What a file came to."""

    counted: Counted
    label: str = ""  # of the format, where another program wrote it
    findings: tuple[str, ...] = ()  # what the doctor says of that, a sentence each


def named(name: str) -> Importer:
    """The row of that name. Raises `MoevizError` for one that there is not."""
    for row in IMPORTERS:
        if row.name == name:
            return row
    raise MoevizError(f"There is no format {quoted(name)}. Choose one of {', '.join(row.name for row in IMPORTERS)}.")


def is_ours(source: Source) -> bool:
    """Whether the file says that moeviz wrote it, so that nobody has to look further."""
    return any(mark in source.data[:512] for mark in OURS)


def recognised(source: Source) -> Importer | None:
    """The row that knows the file by its content. Raises `InvalidTrace` for one that is not opened, and says why."""
    row: Importer | None = _guarded(partial(_recognised, source), source, "a file of another program")
    return row


def imported(source: Source, row: Importer, options: ImportOptions) -> Opened:
    """The trace, or the counts, in a file of that format. What the doctor finds is logged too.

    Raises `InvalidTrace` for a damaged file, and for one that is no routing; `NotSaid` where something must be told.
    """
    try:
        found: Counted = _guarded(lambda: row.read(source, options), source, row.label)
    except NotSaid as error:
        names = dict.fromkeys([*error.names, *(name for name in row.asks if getattr(options, name) is None)])
        raise NotSaid(str(error), tuple(names)) from error
    kind = "counts" if isinstance(found, ExpertCounts) else "a trace"
    log.info("read %s as %s: %s", quoted(source.name), row.label, kind)
    if found.model.caution:
        log.info("%s", found.model.caution)
    findings = tuple(examine(found)["says"])
    for sentence in findings:
        log.warning("%s", sentence)
    return Opened(found, row.label, findings)


def looked_for() -> str:
    """What there are formats of, for a sentence about a file that fits none."""
    return ", ".join(row.label for row in IMPORTERS)


def _recognised(source: Source) -> Importer | None:
    refuse(source)
    return next((row for row in IMPORTERS if row.recognise(source)), None)


def _guarded(read: Callable[[], Any], source: Source, what: str) -> Any:
    try:
        return read()
    except MoevizError:
        raise
    except DAMAGED as error:
        raise InvalidTrace(
            f"{quoted(source.name)} was taken for {what}, and cannot be read as such: {type(error).__name__}, "
            f"{str(error)[:100]!r}. It was cut or damaged, or written by a version that we do not know: write it again."
        ) from error
