"""Open a model: the one that ships with moeviz, a local folder, or an id on the Hugging Face hub.

Only safetensors weights are read, and code that comes with a checkpoint is never run.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import torch
import transformers
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_utils,
)

from moeviz.capture.models.checkpoint import caution_of, check_weights, explained
from moeviz.capture.models.folder import check_inside, check_regular
from moeviz.capture.models.known_models import KNOWN_MODELS
from moeviz.capture.models.memory import BITS, DISK, check_disk, check_fits, device_of, layers_on_disk
from moeviz.capture.models.parameters import (
    TEXT_PART,
    auto_class,
    describe,
    empty_model,
    parameters_of_config,
    text_reader,
)
from moeviz.capture.models.patching import patched_attribute
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import OWN_MODELS, model_folder
from moeviz.errors import CaptureError, ModelNotFound
from moeviz.model_info import ModelInfo
from moeviz.text import cut, is_text, like, numbers_span, quoted, why_no_file

log = logging.getLogger("moeviz.capture")
SAFE = {"trust_remote_code": False}
_one_at_a_time = Lock()
NEAR = 0.8  # similarity from which a name was meant for one of our own models


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedModel:
    """A model ready to be traced, with its tokenizer and the facts that are known before it runs.

    >>> import moeviz
    >>> model = moeviz.load_model()
    >>> type(model).__name__, model.info.layers
    ('LoadedModel', (0, 1, 2, 3, 4, 5))
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    info: ModelInfo
    processor: "transformers.ProcessorMixin | None" = None  # prepares images for it, if it takes any

    def __repr__(self) -> str:
        experts = numbers_span(self.info.num_experts)
        shape = f"{len(self.info.layers)} MoE layers of {experts} experts, {self.info.top_k} per token"
        return f"<LoadedModel {self.name!r}: {shape}, {self.info.dtype}>"

    @property
    def name(self) -> str:
        """The name by which the model was opened."""
        return self.info.name

    @property
    def max_tokens(self) -> int | None:
        """Tokens that fit into the model's context, prompt and generated ones together; None if it sets no limit."""
        return context_length(self.model.config)

    def count_tokens(self, text: str) -> int:
        """Count the tokens of `text` as a prompt, including special tokens."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])


def load_model(
    name: str = EMBEDDED,
    *,
    device_map: str | dict[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    check_memory: bool = True,
    offload_folder: str | Path | None = None,
) -> LoadedModel:
    """Open a transformers MoE by the name of one of ours, by the path of a folder, or by its id on the hub.

    name         "embedded"; "embedded-natural" or "embedded-fine" where they are installed; a folder, or an id.
    device_map   as accelerate takes it: "auto", "cpu", "cuda:1", a dict. Default: "auto" with a CUDA GPU, else the CPU.
                 "disk" leaves all layers on the disk, and each is read when it runs: for a model that is larger than
                 the memory. A batch of texts goes through it at once.
    dtype        default: float32 for the embedded models, else what the checkpoint says.
    check_memory compare the size of the weights with the memory that is free, before any of them is read.
    offload_folder
                 where weights go that `device_map` leaves on the disk; most MoEs are saved in another form than they
                 run in, and need it. It is as large as those weights, and is yours to remove.

    Raises
    ------
    ModelNotFound: no model is there, its files are damaged, or its checkpoint lacks weights of the model.
    CaptureError: a dense model, or one that moeviz cannot record, or that does not fit into memory; known from its
    config, before any weights are loaded.

    Weights of the checkpoint for which the model has no place are named in `info.caution`, and so in every trace.
    """
    source = model_source(name)
    if device_map == "meta":
        raise CaptureError(
            "On the device 'meta' weights have shapes and no numbers, so nothing runs there. Choose 'cpu', 'cuda:0' or "
            "'auto'."
        )
    if isinstance(device_map, str) and device_map.startswith("cuda"):
        device_of(device_map if ":" in device_map else f"{device_map}:0")
    config = _config(name, source, revision)
    empty = empty_model(config, name)
    info = describe(empty, name, getattr(config, "_commit_hash", None))  # refuses what cannot be recorded
    if dtype is None:
        dtype = torch.float32 if name in OWN_MODELS else "auto"
    if device_map is None and torch.cuda.is_available():
        device_map = "auto"
    if check_memory:
        _check_memory(name, empty, dtype, device_map, offload_folder)
    if device_map == DISK:
        device_map = layers_on_disk(empty)
    how: dict[str, Any] = {"dtype": dtype, "device_map": device_map}
    if offload_folder is not None:
        how["offload_folder"] = str(offload_folder)
    model, caution = _weights(name, source, config, revision, **how)
    tokenizer = open_tokenizer(name, source, revision)
    if _shapes(model) != _shapes(empty):  # adapters came with it
        info = describe(model, name, info.revision)
    info = replace(info, dtype=str(model.dtype).removeprefix("torch."), caution=caution)
    return LoadedModel(model, tokenizer, info, open_processor(name, source, type(model), revision))


def model_facts(name: str, revision: str | None = None) -> ModelInfo:
    """Read a model's facts from its config: layers, experts, parameters. No weights are loaded.

    Well-known models (`known_models.py`) need no network, unless a revision is asked for. Raises what `load_model`
    raises before it loads weights.
    """
    return parameters_of_config(model_config(name, revision), name)


def model_config(name: str, revision: str | None = None) -> PreTrainedConfig:
    """Return the config of a model, by the same names as `load_model`; for well-known models without a network."""
    if name in KNOWN_MODELS and revision is None and not Path(name).is_dir():
        return KNOWN_MODELS[name].config()
    return _config(name, model_source(name), revision)


def model_source(name: str) -> str:
    """Return where transformers finds the model of this name: a folder on this machine, or a hub id as it is."""
    if name in OWN_MODELS:
        return str(model_folder(name))
    _check_name(name)
    folder = _folder(name)
    try:
        if (folder / "config.json").is_file():
            check_inside(name, folder)
            return str(folder)
        check_regular(folder)
        is_folder = folder.is_dir()
    except OSError as error:
        raise ModelNotFound(f"The folder {quoted(name)} cannot be opened: {error.strerror}.") from error
    if is_folder:
        raise ModelNotFound(
            f"The folder {quoted(name)} contains no config.json. Give the folder that save_pretrained wrote."
        )
    if name.startswith(("http://", "https://")):
        raise ModelNotFound(
            f"{quoted(name)} does not say which engine serves the model. Write vllm+{cut(name)} or sglang+{cut(name)}."
        )
    if like_one := "" if "/" in name or folder.exists() else like(name, [*OWN_MODELS], NEAR):
        raise ModelNotFound(f"There is no model {quoted(name)}.{like_one}")
    if " " in name.strip() and "/" not in name and not folder.exists():
        raise ModelNotFound(f"There is no model {quoted(name)}. If that is the text to read, it comes after the model.")
    if name.lower().endswith(".gguf"):
        raise ModelNotFound(
            f"{quoted(name)} is a GGUF file, which llama.cpp runs, and this needs a transformers model: with its "
            "config.json, and with modules in which something can be changed. Give the transformers checkpoint."
        )
    if folder.is_file():
        raise ModelNotFound(
            f"{quoted(name)} is a file. A model is the folder of a transformers checkpoint, a hub id, or a .gguf file."
        )
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name or not name.strip():
        raise ModelNotFound(
            f"There is no model at {quoted(name)}. Give the folder of a transformers checkpoint, a hub id such as "
            f"'allenai/OLMoE-1B-7B-0924', or {EMBEDDED!r} for the model that ships with moeviz."
        )
    return name


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the tokens that fit into the context of a model with this config; None if it sets no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def own_dtype(name: str, config: PreTrainedConfig) -> str:
    """Return the dtype in which `load_model` opens it by default: "bfloat16"; "auto" if only the weights show it."""
    dtype = torch.float32 if name in OWN_MODELS else getattr(config, "dtype", None)
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def _check_name(name: str) -> None:
    if why := why_no_file(name):
        raise ModelNotFound(f"There is no model at {quoted(name)}: the name {why}.")
    if not is_text(name):
        raise ModelNotFound(
            f"The name {quoted(name)} is not text in UTF-8, and transformers opens no folder of such a name. Rename it."
        )


def _folder(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ModelNotFound(f"There is no model at {quoted(name)}: {error}") from error


def _check_memory(
    name: str,
    empty: PreTrainedModel,
    dtype: str | torch.dtype,
    device_map: str | dict[str, Any] | None,
    offload_folder: str | Path | None,
) -> None:
    """Raise `CaptureError` if the weights are larger than the free memory, as far as both are known.

    The config does not give the size of quantised weights, and a map of modules may name disks.
    """
    if isinstance(device_map, dict) or getattr(empty.config, "quantization_config", None) is not None:
        return
    bits = str(empty.config.get_text_config().dtype or torch.float32) if dtype == "auto" else str(dtype)
    if device_map == DISK:
        return check_disk(quoted(name), empty, BITS.get(bits.removeprefix("torch."), 32), offload_folder)
    parameters = sum(parameter.numel() for parameter in empty.parameters())
    check_fits(quoted(name), parameters, bits.removeprefix("torch."), device_map)


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {path: parameter.shape for path, parameter in model.named_parameters()}


def _config(name: str, source: str, revision: str | None) -> PreTrainedConfig:
    says = f"{quoted(name)} is neither a local folder with a transformers model nor a model that the hub gives us"
    if Path(source).is_dir():
        says = f"The config.json of {quoted(name)} is not one that transformers reads"
    with explained(says):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source, **reach(source, revision), **_at(revision), **SAFE
        )
        return text_reader(config)


def _weights(
    name: str, source: str, config: PreTrainedConfig, revision: str | None, **how: Any
) -> tuple[PreTrainedModel, str]:
    """Load the model with all its weights from the checkpoint; return it with its caution."""
    places = how["device_map"]
    spared = _read_not_mapped() if isinstance(places, dict) and DISK in places.values() else nullcontext()
    with explained(f"The model {quoted(name)} has a config, but it did not load"), spared:
        model, loading = auto_class(config).from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # else the error names none of them
            key_mapping=_names_in(config),
            **how,
            **_at(revision),
            **SAFE,
        )
    check_weights(name, loading)
    if caution := caution_of(loading, config):
        log.warning("%s", caution)
    return model.eval(), caution


@contextmanager
def _read_not_mapped() -> Iterator[None]:
    """Have transformers read each weight when it is converted, and let it go: all pages of mapped files would stay."""

    def read(file: str, **how: str) -> safe_open:
        return safe_open(file, **how | {"backend": "pread"})

    with _one_at_a_time, patched_attribute(modeling_utils, "safe_open", read):
        yield


def _names_in(config: PreTrainedConfig) -> dict[str, str] | None:
    """Map the names of weights in a whole checkpoint to those in the part of it that reads text."""
    whole, _, part = config.model_type.rpartition("_")
    return {rf"^{part}\.": ""} if TEXT_PART.get(whole) == part else None


def open_tokenizer(name: str, source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Open the tokenizer of a model. Raises `ModelNotFound` if it has none, or if its files are damaged."""
    with explained(f"The tokenizer of {quoted(name)} did not load"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **_at(revision), **SAFE)
    # Without files, transformers makes a tokenizer of only special tokens (T5's has the space too).
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder) + 1:
        raise ModelNotFound(
            f"The model {quoted(name)} comes without a tokenizer: no files in it say how text becomes tokens. Save its "
            "tokenizer into the same folder (save_pretrained)."
        )
    return tokenizer


def takes_images(model: type[PreTrainedModel]) -> bool:
    """Return True if models of a class take the pixels of images."""
    return "pixel_values" in signature(model.forward).parameters


def open_processor(
    name: str, source: str, model: type[PreTrainedModel], revision: str | None = None, needed: bool = False
) -> "transformers.ProcessorMixin | None":
    """Open what prepares images for a model that takes them; None if that fails, which leaves the model its texts.

    needed   there is an image: raises `ModelNotFound` with the reason instead.
    """
    if not takes_images(model):
        return None
    from transformers import AutoProcessor, ProcessorMixin  # which load torchvision

    try:
        with explained(f"The processor of {quoted(name)} did not load"):
            found = AutoProcessor.from_pretrained(source, **_at(revision), **SAFE)
    except ModelNotFound as error:
        if needed:
            raise
        if find_spec("torchvision") is not None:  # else `check_takes_images` names what to install
            log.info("%s Without it the model takes no images.", error)
        return None
    return found if isinstance(found, ProcessorMixin) else None


def _at(revision: str | None) -> dict[str, str]:
    return {"revision": revision} if revision else {}


SECONDS = 5.0  # that the hub has to answer


def reach(source: str, revision: str | None = None) -> dict[str, bool]:
    """Return the options with which transformers finds this model without waiting: in a folder, a cache or on the hub.

    A folder, and what was downloaded before, needs no hub. For anything else one request shows if the hub answers: if
    it does not, transformers looks only into the cache, and reports at once what is missing.
    """
    try:
        if Path(source).is_dir() or try_to_load_from_cache(source, "config.json", revision=revision):
            return {}
        url = hf_hub_url(source, "config.json", revision=revision)
        _within(SECONDS, lambda: get_hf_file_metadata(url, timeout=SECONDS))
    except (HfHubHTTPError, HFValidationError):
        return {}  # it answers, or the name is not a hub id: transformers has a sentence for both
    except Exception as error:  # of whatever library makes the connection
        log.debug("the hub does not answer: %s", error)
        return {"local_files_only": True}
    return {}


def _within(seconds: float, ask: Callable[[], object]) -> None:
    """Wait this long for an answer, and raise what asking raises. A request's `timeout` restarts with every byte."""
    answer: Future[None] = Future()

    def work() -> None:
        try:
            ask()
        except Exception as error:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    Thread(target=work, daemon=True).start()
    answer.result(seconds)
