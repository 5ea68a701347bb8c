"""The embedded model as GGUF files, in 16 bits and in four, as llama.cpp's converter and quantiser would write them.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; names of tensors and facts as llama.cpp's converter
has them (gguf-py/gguf/constants.py).
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moeviz.embedded import embedded_path
from moeviz.whole_files import replacing

ALIGN = 32
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12}
FILE_TYPES = {"F16": 1, "Q4_0": 2}
SHORT, COUNT, INT, FLOAT, BOOL, TEXT, LIST = 2, 4, 5, 6, 7, 8, 9
FORMS = {SHORT: "H", COUNT: "I", INT: "i", FLOAT: "f", BOOL: "?"}
KINDS = {bool: BOOL, int: COUNT, float: FLOAT, str: TEXT, np.uint16: SHORT, np.int32: INT}
NORMAL, CONTROL = 1, 3  # kinds of tokens
NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "block_sparse_moe.gate.weight": "ffn_gate_inp.weight",
}
TURNED = {"self_attn.q_proj.weight": "num_attention_heads", "self_attn.k_proj.weight": "num_key_value_heads"}
OF_EXPERTS = {"w1": "ffn_gate_exps.weight", "w2": "ffn_down_exps.weight", "w3": "ffn_up_exps.weight"}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
Stored = Mapping[str, tuple[tuple[int, ...], str, bytes]]  # shape, type and bytes of each tensor


def write_embedded(path: Path, kind: str) -> Path:
    """Write the embedded model with matrices of layers in "F16" or "Q4_0"; routers and norms stay in float32."""
    from safetensors.torch import load_file

    config = json.loads((embedded_path() / "config.json").read_text(encoding="utf-8"))
    weights = load_file(embedded_path() / "model.safetensors")
    values = {name: tensor.float().numpy() for name, tensor in weights.items()}
    said = {"general.architecture": "llama", "general.file_type": FILE_TYPES[kind]}
    said |= {f"llama.{name}": value for name, value in facts_of(config).items()}
    tensors = {name: (part.shape, *stored(name, part, kind)) for name, part in tensors_of(values, config)}
    return write_gguf(path, said | tokenizer_facts(), tensors)


def facts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what llama.cpp wants to know of any model, from the fields of its config.json."""
    heads = config["num_attention_heads"]
    return {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "rope.dimension_count": config.get("head_dim") or config["hidden_size"] // heads,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "vocab_size": config["vocab_size"],
        "expert_count": next(config[name] for name in EXPERTS if name in config),
        "expert_used_count": config["num_experts_per_tok"],
    }


def tokenizer_facts() -> dict[str, Any]:
    """Collect the facts of the tokenizer: byte-level BPE. `pre` names its splitting; llama.cpp has a fixed list."""
    data = json.loads((embedded_path() / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = data["model"]["vocab"], data["model"]["merges"]
    special = {token["id"] for token in data["added_tokens"] if token["special"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "ufakzeka",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if number in special else NORMAL for number in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(merge) if isinstance(merge, list) else merge for merge in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def tensors_of(values: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a Mixtral by their names in GGUF; the experts of a layer are one."""
    yield "token_embd.weight", values["model.embed_tokens.weight"]
    yield "output_norm.weight", values["model.norm.weight"]
    experts = range(config["num_local_experts"])
    for layer in range(config["num_hidden_layers"]):
        of = f"model.layers.{layer}."
        for name, new in NAMES.items():
            part = values[of + name]
            yield f"blk.{layer}.{new}", by_neighbours(part, config[TURNED[name]]) if name in TURNED else part
        for name, new in OF_EXPERTS.items():
            parts = [values[f"{of}block_sparse_moe.experts.{expert}.{name}.weight"] for expert in experts]
            yield f"blk.{layer}.{new}", np.stack(parts)


def by_neighbours(values: Any, heads: int) -> Any:
    """Put the rows of queries or keys as llama's graph rotates them: neighbours, where transformers rotates halves."""
    rows = len(values)
    return values.reshape(heads, 2, rows // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def stored(name: str, values: np.ndarray, kind: str) -> tuple[str, bytes]:
    """Return the type and the bytes in which a tensor is written."""
    if values.ndim == 1 or "ffn_gate_inp" in name:
        return "F32", values.tobytes()
    if kind == "Q4_0" and name != "token_embd.weight":  # it is the output too
        return kind, q4_0(values).tobytes()
    return "F16", values.astype("<f2").tobytes()


def q4_0(values: np.ndarray) -> np.ndarray:
    """Round as ggml's quantize_row_q4_0_ref does: (N, 18) bytes, a step in float16 and 32 codes of four bits."""
    blocks = values.astype(np.float32).reshape(-1, 32)
    step = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1) / np.float32(-8)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)
    codes = np.minimum(15, (blocks * inverse + np.float32(8.5)).astype(np.uint8))
    return np.hstack([step.astype("<f2").view(np.uint8), codes[:, :16] | codes[:, 16:] << 4])


def write_gguf(path: Path, facts: Mapping[str, Any], tensors: Stored) -> Path:
    """Write a GGUF file of version 3."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    header += b"".join(_text(key) + _value(value) for key, value in facts.items())
    place = 0
    for name, (shape, kind, data) in tensors.items():
        header += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        header += struct.pack("<IQ", TYPES[kind], place)
        place += -(-len(data) // ALIGN) * ALIGN
    with replacing(path) as file:
        for part in (header, *(data for *_, data in tensors.values())):
            file.write(part + bytes(-len(part) % ALIGN))
    return path


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, list):
        kind = INT if type(value[0]) is int else KINDS[type(value[0])]  # of lists, llama.cpp wants this kind
        return struct.pack("<IIQ", LIST, kind, len(value)) + b"".join(_plain(one, kind) for one in value)
    return struct.pack("<I", KINDS[type(value)]) + _plain(value, KINDS[type(value)])


def _plain(value: Any, kind: int) -> bytes:
    return _text(value) if kind == TEXT else struct.pack("<" + FORMS[kind], value)
