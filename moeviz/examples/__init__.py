"""Things to try the how-tos on, written by one command: texts, traces, a server's answer, models of three engines.

python -m moeviz.examples FOLDER

A server's answer says which experts each token went to, in vLLM's form or SGLang's. It can be made of any trace. The
folder for MLX is packed by mlx-lm itself, in four bits.
"""

import io
import json
import shutil
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from moeviz.embedded import embedded_path
from moeviz.embedded.recorded_routing import example_trace, reference_routing
from moeviz.errors import CaptureError
from moeviz.examples.gguf import EXPERTS, FILE_TYPES, write_embedded
from moeviz.formats.counts_file import write_counts
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.exports import write_trace
from moeviz.labelled_texts import texts_that_ship
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace
from moeviz.whole_files import write_file

OF_A_MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
BRIEF = 200  # characters that the few texts keep


def write_examples(folder: str | Path) -> dict[str, str]:
    """Write files to try moeviz on into a new folder, 68 MB, and return what each is, by its name.

    Texts are held-out ones that ship with the embedded model, models are copies of it, and servers' answers are of its
    recorded example; trace, counts and dataset are made up, by `sample_trace`. Where MLX is missing, so is its folder.
    Raises `OSError` if the folder is there or cannot be made.
    """
    target = Path(folder)
    target.mkdir(parents=True)
    return {**_write_texts(target), **_write_traces(target), **_write_models(target)}


def _write_texts(target: Path) -> dict[str, str]:
    texts = texts_that_ship()
    kinds = dict(reversed(texts))  # a text of each
    french, python = ([(kind, text[:BRIEF]) for label, text in texts if label == kind] for kind in ("French", "Python"))
    for name, pairs in (("texts", texts), ("few", french + python), ("french", french), ("python", python)):
        lines = [json.dumps({"label": label, "text": text}, ensure_ascii=False) for label, text in pairs]
        write_file(target / f"{name}.jsonl", "\n".join(lines) + "\n")
    write_file(target / "prompt.txt", "Il fait froid à Paris.")
    for label in ("French", "German", "Python"):
        write_file(target / f"{label.lower()}.txt", kinds[label])
    return {
        "texts.jsonl": f"{len(texts)} texts of {len(kinds)} kinds, a line each",
        "few.jsonl": f"the beginnings of {len(french + python)} of them, French and Python: read in a second",
        "french.jsonl, python.jsonl": "each half of the few",
        "french.txt, german.txt, python.txt": "one text of a kind",
        "prompt.txt": "a prompt, for -f",
    }


def _write_traces(target: Path) -> dict[str, str]:
    trace, of_example = sample_trace(), example_trace()
    write_trace(trace, target / "trace.npz")
    write_counts(trace.counts(), target / "counts.json")
    write_dataset(trace, str(target / "dataset"))
    write_trace(of_example, target / "example.npz")
    write_trace(reference_routing(), target / "texts.npz")
    for name, answer in (("vllm.json", vllm_answer(of_example)), ("sglang.json", sglang_answer(of_example))):
        write_file(target / name, json.dumps(answer))
    return {
        "trace.npz, counts.json, dataset/": "a made-up routing in three forms",
        "example.npz, texts.npz": "how the embedded model routes the app's example, and the beginnings of the texts",
        "vllm.json, sglang.json": "the example as these servers answer it",
    }


def _write_models(target: Path) -> dict[str, str]:
    copied = target / "model"
    copied.mkdir()
    for name in OF_A_MODEL:
        shutil.copyfile(embedded_path() / name, copied / name)
    for kind in FILE_TYPES:
        write_embedded(target / f"model-{kind}.gguf", kind)
    made = {
        "model/": "a checkpoint of transformers' kind: the embedded model",
        "model-F16.gguf, model-Q4_0.gguf": "the same for llama.cpp, in 16 bits and in 4",
    }
    try:
        write_packed_copy(copied, target / "model-4bit")
    except CaptureError as error:
        return made | {"model-4bit/": f"not written. {error}"}
    return made | {"model-4bit/": "the same for MLX, in 4 bits"}


LAST = 3  # the id of a generated token that no router saw, since it was never read: any will do


def vllm_answer(trace: RoutingTrace) -> dict[str, Any]:
    """Write a trace of one text as the completion of a vLLM server that returns routed experts, as from 0.22 on."""
    file = io.BytesIO()
    np.save(file, _rows(trace).astype(np.uint8))
    prompt, new = _tokens(trace)
    choice = {"index": 0, "finish_reason": "length", "prompt_token_ids": prompt, "token_ids": new}
    choice |= {"text": "".join(trace.tokens["text"][len(prompt) :]), "routed_experts": _text(file.getvalue())}
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(new)}
    return {"object": "text_completion", "model": trace.model.name, "choices": [choice], "usage": usage}


def sglang_answer(trace: RoutingTrace) -> dict[str, Any]:
    """Write a trace of one text as SGLang's answer to /generate: numbers without a shape."""
    prompt, new = _tokens(trace)
    meta = {"prompt_tokens": len(prompt), "completion_tokens": len(new), "finish_reason": {"type": "length"}}
    return {"output_ids": new, "meta_info": meta | {"routed_experts": _text(_rows(trace).astype("<i4").tobytes())}}


def _rows(trace: RoutingTrace) -> np.ndarray:
    return trace.experts.transpose(1, 0, 2)


def _tokens(trace: RoutingTrace) -> tuple[list[int], list[int]]:
    ids, generated = trace.tokens["token_id"], trace.tokens["phase"] == "generated"
    return ids[~generated].tolist(), [*ids[generated].tolist(), LAST]


def _text(data: bytes) -> str:
    return b64encode(data).decode()


OF_A_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def write_packed_copy(source: Path, folder: Path, bits: int = 4) -> None:
    """Write a Mixtral of transformers, a folder, as mlx-lm packs it. Raises `CaptureError` if MLX is missing."""
    from moeviz.capture.engines.mlx.installed import need_mlx

    need_mlx()
    with TemporaryDirectory() as place:
        read = Path(place)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        write_file(read / "config.json", json.dumps({**config, **read_by_mlx(config)}))
        shutil.copyfile(source / "model.safetensors", read / "model.safetensors")
        write_packed(read, folder, bits)
    for name in OF_A_TOKENIZER:
        shutil.copyfile(source / name, folder / name)


def write_packed(source: Path, folder: Path, bits: int, group_size: int = 64) -> Path:
    """Write the model of a folder with packed weights, as `mlx_lm.convert -q` does, and without a tokenizer."""
    from mlx_lm import utils

    model, config = utils.load_model(source)
    model, config = utils.quantize_model(model, config, group_size, bits)
    utils.save_model(folder, model)
    utils.save_config(config, folder / "config.json")
    return folder


def read_by_mlx(config: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the fields that mlx-lm looks for under other names than transformers 5 writes."""
    rope = config["rope_parameters"]
    return {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None,
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0),
        "num_experts": next(config[name] for name in EXPERTS if name in config),
    }
