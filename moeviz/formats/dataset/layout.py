"""The layout of a dataset on disk: names, columns, types and encodings. The rest of the folder agrees on this file.

    DIR/plan.json            before anything runs: the model, what is kept, and which texts are in which shard
    DIR/shard-000012/        there as a whole, or not at all
    DIR/manifest.json        last: a folder that has one is whole. Facts, counts, and the sha256 of every file

Each shard has `tokens.parquet`, a row per token, and small tables, which are sums over its rows: a page that
draws the load of a corpus never reads a row.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from os import SEEK_END
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from moeviz.errors import InvalidTrace
from moeviz.file_limits import shown
from moeviz.formats.dataset.s3 import Place
from moeviz.formats.trace_facts import FORMAT as TRACE_FORMAT
from moeviz.formats.trace_facts import model_of
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED

FORMAT = "moeviz dataset v1"
PLAN, MANIFEST, SHARD, TOKENS = "plan.json", "manifest.json", "shard.json", "tokens.parquet"
TABLES = ("load", "slots", "groups", "pairs", "flow", "locality", "texts")
FILES = (TOKENS, *(f"{name}.parquet" for name in TABLES))
ROWS = 65_536  # tokens of a row group, from which on it ends where a stretch ends: the unit that is read
KEY = b"moeviz.dataset"

Weights = Literal["none", "float16", "exact"]
WEIGHTS: dict[str, type[np.floating] | None] = {"none": None, "float16": np.float16, "exact": np.float32}


@dataclass(frozen=True, slots=True)
class Kept:
    """The parts of the recorded routing that a dataset keeps."""

    weights: Weights = "float16"
    text: bool = True  # the tokens' texts and ids; an id is as good as its text to anyone with the tokenizer
    labels: bool = True


def name_of(shard: int) -> str:
    """Return the folder of a shard."""
    return f"shard-{shard:06}"


def experts_column(layer: int) -> str:
    """Return the column of a layer's expert ids."""
    return f"experts_{layer:03}"


def weights_column(layer: int) -> str:
    """Return the column of a layer's weights."""
    return f"weights_{layer:03}"


def id_type(model: ModelInfo) -> np.dtype[Any]:
    """uint8 up to 254 experts, else uint16: the two highest values mean no expert, and (one less) not recorded."""
    return np.dtype(np.uint8 if max(model.num_experts) <= 254 else np.uint16)


def packed_ids(experts: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    """Ids of a trace as they are stored: -1 and -2 become the two highest values."""
    return experts.astype(kind)


def unpacked_ids(stored: np.ndarray) -> np.ndarray:
    """Return the way back, to int16."""
    size = int(np.iinfo(stored.dtype).max) + 1
    wide = stored.astype(np.int32)
    return np.where(wide >= size + NOT_RECORDED, wide - size, wide).astype(np.int16)


def stored_values(kind: np.dtype[Any]) -> tuple[int, int]:
    """Return NO_EXPERT and NOT_RECORDED as they are stored."""
    size = int(np.iinfo(kind).max) + 1
    return size + NO_EXPERT, size + NOT_RECORDED


def schema(model: ModelInfo, kept: Kept) -> pa.Schema:
    """Return the columns of `tokens.parquet`, none of them with nulls."""
    fields = [("text", pa.int64()), ("stretch", pa.int32()), ("position", pa.int32()), ("generated", pa.bool_())]
    fields += [("label", pa.dictionary(pa.int32(), pa.string()))] if kept.labels else []
    fields += [("token_id", pa.int32()), ("token", pa.string())] if kept.text else []
    width, own = id_type(model).itemsize * model.top_k, WEIGHTS[kept.weights]
    fields += [(experts_column(layer), pa.binary(width)) for layer in model.layers]
    if own is not None:
        fields += [(weights_column(layer), pa.binary(np.dtype(own).itemsize * model.top_k)) for layer in model.layers]
    about = {"format": FORMAT, "layers": model.layers, "num_experts": model.num_experts, "top_k": model.top_k}
    facts = json.dumps(about | asdict(kept)).encode()
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields], metadata={KEY: facts})


def how_written(names: list[str]) -> dict[str, Any]:
    """Return how columns are stored: ids plain, so that zstd sees whole rows of slots; counters by difference."""
    own = {name: "BYTE_STREAM_SPLIT" for name in names if name.startswith("weights_")}
    own |= {name: "PLAIN" for name in names if name.startswith("experts_") or name == "token_id"}
    own |= dict.fromkeys(("text", "stretch", "position"), "DELTA_BINARY_PACKED")
    words = [name for name in ("label", "token") if name in names]
    how = {"compression": "zstd", "compression_level": 1, "use_dictionary": words, "column_encoding": own}
    return how | {"write_statistics": ["text"], "write_page_checksum": True}


def footer_digest(path: Place) -> str:
    """Return the sha256 of a Parquet file's last part, which says where everything is; pages have sums of their own."""
    with path.open("rb") as file:
        size = file.seek(-8, SEEK_END) + 8
        length = min(int.from_bytes(file.read(4), "little") + 8, size)
        file.seek(-length, SEEK_END)
        return sha256(file.read()).hexdigest()


def facts_json(model: ModelInfo, kept: Kept) -> dict[str, Any]:
    """Return the facts that plan and manifest share."""
    return {"format": FORMAT, "model": asdict(model), "kept": asdict(kept)}


def facts_from(content: dict[str, Any], where: str) -> tuple[ModelInfo, Kept]:
    """Return the model and what is kept, from `facts_json`, checked. Raises `InvalidTrace`."""
    if content.get("format") != FORMAT:
        raise InvalidTrace(
            f"{where} is of the format {shown(content.get('format'))}, and this version of moeviz reads {FORMAT!r}. "
            "Update moeviz, or write the dataset again."
        )
    kept = content.get("kept")
    fits = isinstance(kept, dict) and set(kept) == {"weights", "text", "labels"} and kept["weights"] in (*WEIGHTS,)
    if not isinstance(kept, dict) or not fits or not all(type(kept[name]) is bool for name in ("text", "labels")):
        raise InvalidTrace(f"{where} says {shown(kept)} of what is kept, which is damaged. Write the dataset again.")
    model = model_of({"format": TRACE_FORMAT, "model": content.get("model")})
    return model, Kept(**kept)
