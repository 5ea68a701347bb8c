"""The cost of a model of a real size: peak memory and CPU time to load it and trace a text, next to transformers.

    python -m benchmarks.real_size NAME [FOLDER] [--layers N] [--rounds N] [--tokens N] [--ways WAY,WAY]

NAME is one of `NAMES`. A checkpoint with the published configuration and random weights is written into FOLDER, layer
by layer, unless it is there; it is yours to remove. Then two ways take turns, each in a process of its own, on one
thread: both load the model and run one forward of the text.

    plain    transformers, without moeviz
    moeviz   load_model and trace, without the check against what experts receive; its CPU time is measured after that
    disk     the same with layers that stay on the disk (into FOLDER-offloaded, if need be), by --ways disk

Printed are the medians, and their ratio. Imports are outside the clock, and the memory that they take is in both.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

import moeviz
from benchmarks.harness import Figures, compared, peak_mb, take_turns
from moeviz.capture import trace as tracing
from moeviz.capture.models.known_models import KNOWN_MODELS
from moeviz.capture.models.parameters import empty_model
from moeviz.capture.record.witness import checked
from moeviz.capture.routers.discovery import LAYER_INDEX, find_routers
from moeviz.capture.run.prompts import prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.embedded import embedded_path
from moeviz.labelled_texts import texts_that_ship

GRANITE = {  # granite-3.0-1b-a400m
    "vocab_size": 49155,
    "hidden_size": 1024,
    "intermediate_size": 512,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "num_experts_per_tok": 8,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 6.0,
    "tie_word_embeddings": True,
}
NAMES = {
    "granite": lambda: AutoConfig.for_model("granitemoe", **GRANITE),
    "olmoe": KNOWN_MODELS["allenai/OLMoE-1B-7B-0924"].config,
    "deepseek-v2-lite": KNOWN_MODELS["deepseek-ai/DeepSeek-V2-Lite"].config,
    "qwen3-30b": KNOWN_MODELS["Qwen/Qwen3-30B-A3B"].config,
}
SPREAD, ROUTERS = 0.02, 4  # standard deviation of weights, and how many times that of routers is as large
LEFT = 1.1  # of the checkpoint's size must be free


def write(folder: Path, config: PreTrainedConfig) -> None:
    """Write a checkpoint of random weights, one file per layer. Ends with a sentence if the disk is too small."""
    model = empty_model(config)
    needed = 2 * sum(parameter.numel() for parameter in model.parameters())
    free = shutil.disk_usage(folder.parent).free
    if needed * LEFT > free:
        raise SystemExit(
            f"The weights take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {folder.parent}. Give a "
            "folder on another disk, or fewer layers: --layers N."
        )
    folder.mkdir()
    places, parts = {}, list(_in_layers(model))
    for number, keys in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = revert_weight_conversion(model, _random(model, keys))  # as it was published
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": needed}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    _write_tokenizer(folder, config.vocab_size)
    config.dtype = torch.bfloat16
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    print(f"wrote {folder}: {needed / 2e9:.2f} billion parameters, {needed / 1e9:.1f} GB")


def _in_layers(model: PreTrainedModel) -> Iterator[list[str]]:
    keys = (key for key in model.state_dict() if key not in model.all_tied_weights_keys)
    for _, group in groupby(keys, lambda key: (found := LAYER_INDEX.search(key)) and found[1]):
        yield list(group)


def _random(model: PreTrainedModel, keys: list[str]) -> dict[str, torch.Tensor]:
    own, tensors = model.state_dict(), {}
    routers = {f"{router.path}.weight" for router in find_routers(model)}
    for key in keys:
        tensor = tensors[key] = torch.empty(own[key].shape, dtype=torch.bfloat16)
        if tensor.dim() == 1:
            tensor.fill_(key.endswith("weight"))  # norms leave their input as it is; biases are 0
        else:
            tensor.normal_(0, SPREAD * (ROUTERS if key in routers else 1))
    return tensors


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write the embedded model's tokenizer with as many tokens as the model has: the added ones are never read."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_path() / name, folder / name)
    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    own = words["model"]["vocab"]
    own |= {f"<unused{number}>": number for number in range(len(own), vocabulary)}
    (folder / "tokenizer.json").write_text(json.dumps(words), "utf-8")


def spent(folder: str, way: str, tokens: int) -> Figures:
    """Load the model in this process and run a forward of a text; return CPU seconds and GB."""
    text = " ".join(text for _, text in texts_that_ship())
    words = AutoTokenizer.from_pretrained(folder)
    text = words.decode(words(text[: 16 * tokens])["input_ids"][:tokens], skip_special_tokens=True)
    on_disk = partial(moeviz.load_model, device_map="disk", offload_folder=f"{folder}-offloaded")
    load, run = {"plain": (_plain, _forward), "moeviz": (moeviz.load_model, _trace), "disk": (on_disk, _trace)}[way]
    start = time.process_time()
    model = load(folder)
    loaded = time.process_time()
    run(model, text)
    ran = time.process_time()
    found = {
        "load, CPU s": loaded - start,
        "forward, CPU s": ran - loaded,
        "both, CPU s": ran - start,
        "peak, GB": peak_mb() / 1e3,
    }
    if way != "plain":
        checked(prepare(model, CaptureRequest((text,)), None))
        found["check, CPU s"] = time.process_time() - ran
    return found


def _plain(folder: str) -> tuple[PreTrainedModel, object]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def _forward(model: tuple[PreTrainedModel, object], text: str) -> None:
    network, words = model
    network(**words(text, return_tensors="pt"), logits_to_keep=1, use_cache=False)


def _trace(model: object, text: str) -> None:
    tracing.checked = lambda _run: ""
    moeviz.trace(model, text)


def in_a_process(folder: Path, way: str, tokens: int, _round: int) -> Figures:
    """Return what `spent` finds in a new process on one thread."""
    command = [sys.executable, "-m", "benchmarks.real_size", "--way", way, "--tokens", str(tokens), "-", str(folder)]
    found = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    """Write a checkpoint, and print what both ways take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="default: real-size-NAME")
    parser.add_argument("--layers", type=int, metavar="N", help="fewer layers than the model has")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds after the first (default 5)")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--ways", default="plain,moeviz", help="which take turns (default plain,moeviz)")
    parser.add_argument("--way", help=argparse.SUPPRESS)  # measure this one, in this process
    given = parser.parse_args()
    if given.way:
        return print(json.dumps(spent(str(given.folder), given.way, given.tokens)))
    folder = given.folder or Path(f"real-size-{given.name}")
    if not folder.exists():
        config = NAMES[given.name]()
        config.num_hidden_layers = given.layers or config.num_hidden_layers
        write(folder.absolute(), config)
    ways = {way: partial(in_a_process, folder, way, given.tokens) for way in given.ways.split(",")}
    found = take_turns(ways, given.rounds)
    print(f"torch {torch.__version__}, 1 thread, {given.rounds} rounds, {given.tokens} tokens\n{compared(found)}")
    for way, figures in found.items():
        for what, plain in found.get("plain", {}).items():
            print(f"{way}, {what}: {statistics.median(figures[what]) / statistics.median(plain):.3f} times plain")


if __name__ == "__main__":
    main()
