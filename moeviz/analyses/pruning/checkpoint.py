"""A checkpoint without some of its experts: bytes copied from file to file, and no model in memory.

A tensor keeps its bytes, loses the rows of experts that go, gets the number of its expert in the smaller layer, or is
left out. It is written to a folder next to the target, which takes the target's name when it is complete.
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import try_to_load_from_cache

from moeviz.capture.models.folder import MODEL_INDEX, TensorPlace, indexed_files, tensors_of
from moeviz.capture.models.load import model_source
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.metrics.pruning import LayerLimits
from moeviz.text import cut as shortened
from moeviz.text import quoted, why_no_file
from moeviz.whole_files import new_folder, write_file

FAMILIES = (  # `model_type`s whose checkpoints are held against the muted model in the tests
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "glm4_moe",
    "gpt_oss",
)
COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")  # in config.json: how many experts per layer has
FURTHER = "num_nextn_predict_layers"  # layers for multi-token prediction, numbered after the last
ABOUT = "moeviz_pruning.json"
WEIGHTS = "model.safetensors"
BESIDE = re.compile(  # what is copied as it is
    r"(tokenizer|special_tokens_map|added_tokens|vocab|merges|chat_template|generation_config|preprocessor_config"
    r"|LICEN[CS]E|NOTICE|USE_POLICY)[\w.-]*|[\w.-]+\.(model|tiktoken|jinja)",
    re.IGNORECASE,
)
IN_BLOCK = re.compile(r"(?:\w+\.)*layers\.(?P<layer>\d+)\.(?:mlp|block_sparse_moe)\.(?P<rest>.+)")
LAYER = re.compile(r"(?:\w+\.)*layers\.(\d+)\.")
ONE = re.compile(r"experts\.(\d+)\.(.+)")  # an expert in tensors of its own
ROWS = re.compile(r"(?:experts|gate|router)\.(?!\d)(?:.+)|e_score_correction_bias")  # a row for each expert
AT_ONCE = 2**24  # bytes
Progress = Callable[[int, int], None]  # (bytes written, of all)


def _places_of_rows(tensor: TensorPlace, kept: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return the bytes of some rows, as (start, size), with adjacent rows together."""
    row = tensor.size // tensor.shape[0]
    first = last = kept[0]
    for one in [*kept[1:], -1]:
        if one == last + 1:
            last = one
            continue
        yield tensor.start + first * row, (last + 1 - first) * row
        first = last = one


@dataclass(slots=True)
class _File:
    """One file to write: tensors by their new name, and the parts of the old file that they are made of."""

    name: str
    facts: dict[str, str]
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0

    def add(self, name: str, tensor: TensorPlace, kept: Sequence[int] | None) -> None:
        if kept is None:
            parts, shape = [(tensor.start, tensor.size)], tensor.shape
        else:
            parts, shape = [*_places_of_rows(tensor, kept)], (len(kept), *tensor.shape[1:])
        size = sum(size for _, size in parts)
        offsets = [self.size, self.size + size]
        self.tensors[name] = {"dtype": tensor.dtype, "shape": [*shape], "data_offsets": offsets}
        self.parts += parts
        self.size += size

    @property
    def header(self) -> bytes:
        facts = {"__metadata__": self.facts} if self.facts else {}
        text = json.dumps(facts | self.tensors, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that was written: its folder, and experts per layer and bytes of weights before and after."""

    folder: Path
    experts: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The checkpoint of a model whose experts can be cut from its files."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    limits: LayerLimits
    shards: Mapping[str, Mapping[str, TensorPlace]]  # tensors by name, by file
    facts: Mapping[str, dict[str, str]]  # of each file

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> "Checkpoint":
        """Return the files of a model by the names of `moeviz.load_model`; of one on the hub, as they lie in its cache.

        Raises `ModelNotFound` if they are not here or damaged, and `CaptureError` for other families, quantised
        weights and adapters.
        """
        folder = _folder(name, revision)
        config = _json(folder / "config.json")
        kind = config.get("model_type")
        if kind not in FAMILIES:
            raise CaptureError(
                f"moeviz writes no checkpoint of {quoted(kind)} without experts: it does so for {', '.join(FAMILIES)}. "
                "The ranking can be had as a file (--ranking)."
            )
        if config.get("quantization_config"):
            raise CaptureError(f"The weights of {quoted(name)} are quantised. Cut experts from those that are not.")
        if (folder / "adapter_config.json").exists():
            raise CaptureError(f"{quoted(name)} is an adapter. Merge it into its model, and save that.")
        read = {shard: tensors_of(folder / shard) for shard in _shards(name, folder)}
        shards = {shard: tensors for shard, (tensors, _) in read.items()}
        facts = {shard: facts for shard, (_, facts) in read.items()}
        found = cls(name, folder, config, _limits(config), shards, facts)
        found._check_whole()
        return found

    def _check_whole(self) -> None:
        """Raise `ModelNotFound` if a layer lacks its router, or an expert one of its tensors."""
        experts: dict[tuple[int, str], set[int]] = defaultdict(set)
        routers = set()
        for name in (name for tensors in self.shards.values() for name in tensors):
            if m := IN_BLOCK.fullmatch(name):
                if one := ONE.fullmatch(m["rest"]):
                    experts[int(m["layer"]), one[2]].add(int(one[1]))
                elif m["rest"] in ("gate.weight", "router.weight"):
                    routers.add(int(m["layer"]))
        lacking = {layer for (layer, _), ids in experts.items() if ids != {*range(self.limits.experts)}}
        if bad := (lacking & {*self.layers}) | {layer for layer in self.layers if layer not in routers}:
            raise ModelNotFound(
                f"The weights of {quoted(self.name)} lack experts, or the router, of layer {min(bad)}. Download the "
                "model again."
            )

    def size_without(self, count: int) -> int:
        """Count the bytes of weights without `count` experts per layer. Raises `CaptureError` for too many."""
        if why := self.limits.why_not(count):
            raise CaptureError(f"{count:,} experts a layer cannot be cut: each layer {why}")
        size = self.limits.experts // self.limits.groups
        stays = [one for one in range(self.limits.experts) if one % size >= count // self.limits.groups]
        return sum(self._file(shard, dict.fromkeys(self.layers, stays)).size for shard in self.shards)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have experts."""
        found = (IN_BLOCK.fullmatch(name) for tensors in self.shards.values() for name in tensors)
        own = {int(m["layer"]) for m in found if m and (ONE.fullmatch(m["rest"]) or ROWS.fullmatch(m["rest"]))}
        return tuple(sorted(layer for layer in own if layer < self.config["num_hidden_layers"]))

    def write(
        self,
        target: Path | str,
        cut: Mapping[int, Sequence[int]],
        about: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Written:
        """Write the checkpoint without these experts, as many of each layer, to a folder that is not there yet.

        cut        expert ids by layer, as `PruningCurve.cut` gives them.
        about      facts for the file moeviz_pruning.json next to the weights, which also says which experts stayed.
        progress   called with bytes written, and those of all. Raise in it to stop: nothing is left.

        Raises `CaptureError` if the target is there, the disk has too little space, or not as many experts go from
        each layer and group; `OSError` where it cannot be written.
        """
        target = check_target(target)
        kept = self._experts_that_stay(cut)
        files = [file for shard in self.shards if (file := self._file(shard, kept)).tensors]
        total = sum(len(file.header) + file.size for file in files)
        check_space(target, total)
        with new_folder(target) as beside:
            done = 0
            for file in files:
                done = self._copy(file, beside / file.name, done, total, progress)
            self._write_small(beside, files, kept, about or {})
            check_target(target)
        after = self.limits.experts - len(next(iter(cut.values())))
        before = sum(tensor.size for tensors in self.shards.values() for tensor in tensors.values())
        return Written(target, (self.limits.experts, after), (before, sum(file.size for file in files)))

    def _experts_that_stay(self, cut: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
        """Return the experts that stay, by layer. Raises `CaptureError` unless as many go from each layer and group."""
        if sorted(cut) != [*self.layers]:
            raise CaptureError(f"{quoted(self.name)} has experts in layers {self.layers}, and {sorted(cut)} are cut.")
        counts = {len({*experts}) for experts in cut.values()}
        if len(counts) != 1:
            raise CaptureError(
                f"The config of {quoted(self.name)} has one number of experts for all layers, so as many are cut from "
                f"each, and not {min(counts)} of one and {max(counts)} of another."
            )
        if why := self.limits.why_not(*counts):
            raise CaptureError(f"{counts.pop():,} experts a layer cannot be cut: each layer {why}")
        E, kept = self.limits.experts, {}
        for layer, experts in cut.items():
            if wrong := [one for one in experts if not 0 <= one < E]:
                raise CaptureError(f"Layer {layer} has experts 0 to {E - 1}, not {wrong[0]}.")
            kept[layer] = [one for one in range(E) if one not in {*experts}]
            size = E // self.limits.groups
            if len({sum(one // size == group for one in kept[layer]) for group in range(self.limits.groups)}) != 1:
                raise CaptureError(
                    f"The {self.limits.groups} groups of layer {layer} must stay of one size, so as many experts are "
                    "cut from each."
                )
        return kept

    def _file(self, shard: str, kept: Mapping[int, list[int]]) -> _File:
        """Plan one file's tensors, in the order of their bytes."""
        file, E = _File(shard, self.facts[shard]), self.limits.experts
        for name, tensor in sorted(self.shards[shard].items(), key=lambda item: item[1].start):
            in_layer, in_block = LAYER.match(name), IN_BLOCK.fullmatch(name)
            if in_layer and int(in_layer[1]) >= self.config["num_hidden_layers"]:
                continue  # its router is not seen when the model runs, so nothing is known of its experts
            stays = kept.get(int(in_block["layer"])) if in_block else None
            if in_block is None or stays is None:
                file.add(name, tensor, None)
            elif one := ONE.fullmatch(in_block["rest"]):
                if int(one[1]) in stays:
                    head = name[: in_block.start("rest")]
                    file.add(f"{head}experts.{stays.index(int(one[1]))}.{one[2]}", tensor, None)
            elif ROWS.fullmatch(in_block["rest"]):
                if not tensor.shape or tensor.shape[0] != E or tensor.size % E:
                    raise CaptureError(
                        f"{shortened(name)} of {quoted(self.name)} has no row for each of {E} experts, so moeviz does "
                        "not know what to leave out of it. Please report this model."
                    )
                file.add(name, tensor, stays)
            else:
                file.add(name, tensor, None)
        return file

    def _copy(self, file: _File, path: Path, done: int, total: int, progress: Progress | None) -> int:
        with (self.folder / file.name).open("rb") as source, path.open("wb") as out:
            done += out.write(file.header)
            for start, size in file.parts:
                source.seek(start)
                for piece in _pieces(source, size):
                    done += out.write(piece)
                    if progress is not None:
                        progress(done, total)
        return done

    def _write_small(
        self, folder: Path, files: Sequence[_File], kept: Mapping[int, list[int]], about: Mapping[str, Any]
    ) -> None:
        """Write config, index, the basis of the cut, and the files that stay unchanged."""
        left = len(next(iter(kept.values())))
        config = {key: value for key, value in self.config.items() if key != "auto_map"}  # whose code is not copied
        config |= dict.fromkeys((key for key in COUNTS if isinstance(config.get(key), int)), left)
        if config.get(FURTHER):
            config[FURTHER] = 0
        _write_json(folder / "config.json", config)
        if (self.folder / MODEL_INDEX).exists():
            facts = {"total_size": sum(file.size for file in files)}
            where = {name: file.name for file in files for name in file.tensors}
            _write_json(folder / MODEL_INDEX, {"metadata": facts, "weight_map": where})
        _write_json(folder / ABOUT, {**about, "kept": {str(layer): experts for layer, experts in kept.items()}})
        for path in self.folder.iterdir():
            if path.is_file() and BESIDE.fullmatch(path.name):
                shutil.copyfile(path, folder / path.name)


def check_target(target: Path | str) -> Path:
    """Return the folder to write, as a path. Raises `CaptureError` if it is there, or what it is to lie in is not."""
    if why := why_no_file(str(target)):
        raise CaptureError(f"No folder can be called {quoted(target)}: the name {why}.")
    path = Path(target).absolute()
    if os.path.lexists(path):
        raise CaptureError(f"{quoted(target)} is there already, and nothing is written over. Name a new folder.")
    if not path.parent.is_dir():
        raise CaptureError(f"There is no folder {quoted(path.parent)} in which to write. Make it, or name another.")
    return path


def check_space(target: Path, size: int) -> None:
    """Raise `CaptureError` if the disk has no space for this many bytes and the small files."""
    free = shutil.disk_usage(target.parent).free
    if size + AT_ONCE > free:
        raise CaptureError(
            f"The checkpoint takes {(size + AT_ONCE) / 1e9:,.2f} GB, and {free / 1e9:,.2f} GB are free in "
            f"{quoted(target.parent)}. Make space, or name a folder on another disk."
        )


def _folder(name: str, revision: str | None) -> Path:
    source = model_source(name)
    if Path(source).is_dir():
        return Path(source)
    found = try_to_load_from_cache(source, "config.json", revision=revision)
    if not isinstance(found, str):
        raise ModelNotFound(f"The files of {quoted(name)} are not on this machine. Load the model once.")
    return Path(found).parent


def _limits(config: Mapping[str, Any]) -> LayerLimits:
    counts = {config[key] for key in COUNTS if isinstance(config.get(key), int)}
    top_k, groups, groups_kept = (config.get(key) or 1 for key in ("num_experts_per_tok", "n_group", "topk_group"))
    if config.get("topk_method") == "greedy":
        groups = groups_kept = 1
    whole = all(isinstance(number, int) and number > 0 for number in (top_k, groups, groups_kept, *counts))
    layers = isinstance(config.get("num_hidden_layers"), int)
    if len(counts) != 1 or not whole or not layers or next(iter(counts)) % groups:
        raise ModelNotFound(
            "The config.json does not say plainly how many layers, experts and groups there are "
            f"({', '.join((*COUNTS, 'num_hidden_layers'))}). Save the model again with save_pretrained."
        )
    return LayerLimits(counts.pop(), top_k, groups, groups_kept)


def _shards(name: str, folder: Path) -> list[str]:
    """Return the files with weights. Raises `ModelNotFound` without any in safetensors."""
    if shards := indexed_files(name, folder):
        if not all(shard == Path(shard).name for shard in shards):
            raise ModelNotFound(
                f"The {MODEL_INDEX} in {quoted(folder)} names no files beside it. Download the model again."
            )
        return shards
    if not (folder / WEIGHTS).exists():
        raise ModelNotFound(f"There are no weights in safetensors in {quoted(folder)}. Save the model in that format.")
    return [WEIGHTS]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelNotFound(f"{quoted(path.name)} is not JSON. Download the model again.") from error
    if not isinstance(found, dict):
        raise ModelNotFound(f"{quoted(path.name)} is not a JSON object. Download the model again.")
    return found


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        piece = source.read(min(size, AT_ONCE))
        if not piece:
            raise CaptureError(f"{quoted(Path(source.name).name)} became shorter while it was read. Try again.")
        size -= len(piece)
        yield piece


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
