"""Put prompts into one batch for a model: as chats if asked, padded on the left, checked against its context."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
import pandas as pd
import torch
import transformers
from jaxtyping import Bool
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moeviz.capture.models.load import LoadedModel, context_length, load_model
from moeviz.capture.models.parameters import describe
from moeviz.capture.models.patching import eager_model, unwrap_peft
from moeviz.capture.run.chat import PromptSegments, Span, as_text, prompt_segments
from moeviz.capture.run.images import check_no_placeholder, check_takes_images, read_images
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidPrompt, MissingField
from moeviz.image_tokens import TraceImage
from moeviz.model_info import ModelInfo
from moeviz.text import cut, quoted


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts as a model reads them, padded on the left. B prompts, S positions."""

    input_ids: torch.Tensor  # (B, S)
    attention_mask: torch.Tensor  # (B, S), 0 = padding
    tensors: Mapping[str, torch.Tensor] = field(
        default_factory=dict
    )  # of the images of one prompt, as forward has them

    def repeated(self, copies: int) -> "Batch":
        """Repeat each prompt this many times, one after the other."""
        ids, mask = (part.repeat_interleave(copies, dim=0) for part in (self.input_ids, self.attention_mask))
        return Batch(ids, mask, {name: torch.cat([part] * copies) for name, part in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class GeneratedTokens:
    """The tokens that a model generated. R returned sequences, N tokens."""

    tokens: torch.Tensor  # (R, N), -1 = this sequence had ended
    rows: torch.Tensor  # (R, N): in which row of its batch the model drew each token
    drafts: bool = False  # whether the model also read tokens that were then rejected
    asked: int = 0  # tokens of each sequence that were asked for


def no_generated_tokens(batch: Batch) -> GeneratedTokens:
    """Return the generated tokens of a run that only reads prompts: none."""
    return GeneratedTokens(batch.input_ids[:, :0], batch.input_ids[:, :0])


@dataclass(frozen=True, slots=True)
class ModelInput:
    """A model, and the batch that it will read."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    info: ModelInfo
    batch: Batch
    segments: tuple[PromptSegments | None, ...] = ()  # of each prompt, in a chat
    images: tuple[TraceImage, ...] = ()
    image_columns: pd.DataFrame | None = None  # of the tokens of the prompt, if it has images

    def in_segment(self, segment: str | None) -> Bool[np.ndarray, " T"]:
        """Mark the tokens of the first prompt that are of a segment of its chat; all for None.

        Raises `MissingField` if nobody knows the segments of its tokens.
        """
        if segment is None:
            return np.ones(self.batch.input_ids.shape[1], bool)
        if not self.segment_names:
            raise MissingField(f"Nobody knows which tokens of a text are of the segment {quoted(segment)}. Give chats.")
        return np.array([name == segment for name in self.segment_names])

    @property
    def segment_names(self) -> tuple[str, ...]:
        """The segment of each token of the first prompt; none if nobody knows."""
        return self.segments[0].names if self.segments and self.segments[0] is not None else ()


def prepare(
    model: LoadedModel | nn.Module | str,
    request: CaptureRequest,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: "transformers.ProcessorMixin | None" = None,
) -> ModelInput:
    """Open the model if it is given by name, and read the prompts. Raises what `trace` raises."""
    if isinstance(model, str):
        model = load_model(model)
    if not isinstance(model, LoadedModel | nn.Module):
        name = getattr(model, "name", None)  # of another engine's model, which has no modules
        if isinstance(name, str):
            raise CaptureError(
                f"{name} is not a transformers model, and this needs one: nothing can be changed in another engine. "
                "Load the transformers checkpoint."
            )
        raise CaptureError(
            f"The model is {cut(repr(model), 60)}; it must be what moeviz.load_model returns, a name that it takes, or "
            "a transformers model with its tokenizer."
        )
    given = eager_model(model.model if isinstance(model, LoadedModel) else model)
    runs = cast(PreTrainedModel, unwrap_peft(given))
    if isinstance(model, LoadedModel):
        tokenizer, info, processor = model.tokenizer, model.info, processor or model.processor
    else:
        info = describe(runs, runs.config.name_or_path or runs.config.model_type)
    if request.site is not None:
        info = replace(describe(runs, info.name, info.revision, request.site), caution=info.caution)
    if tokenizer is None:
        tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise CaptureError(f"{type(runs).__name__} came without a tokenizer. Pass tokenizer=, or the model's path.")
    if request.images:
        return _with_images(ModelInput(runs, tokenizer, info, in_one_batch(runs, [[0]], 0)), request, processor)
    ids = _given_ids(runs, request.token_ids) if request.token_ids else _ids_of_texts(tokenizer, request)
    check_no_placeholder(runs, tokenizer, ids)
    batch = in_one_batch(runs, ids, request.max_new_tokens)
    spans = partial(token_spans, tokenizer)
    segments = tuple(prompt_segments(tokenizer, spans, chat) for chat in request.conversations)
    return ModelInput(runs, tokenizer, info, batch, segments=segments)


def _with_images(
    run: ModelInput, request: CaptureRequest, processor: "transformers.ProcessorMixin | None"
) -> ModelInput:
    """Return the run of a prompt with images."""
    check_takes_images(type(run.model), processor)
    assert processor is not None  # what was just checked
    read = read_images(run.model, processor, request.texts[0], request.images, request.chat, request.system)
    batch = replace(in_one_batch(run.model, [read.ids], request.max_new_tokens), tensors=read.tensors)
    info = replace(run.info, caution=" ".join(filter(None, (run.info.caution, read.caution))))
    return replace(
        run, info=info, batch=batch, images=tuple(one.facts for one in request.images), image_columns=read.columns
    )


def decoder_start(model: PreTrainedModel, sequences: int) -> Batch:
    """Make a batch of the first token of a decoder that follows an encoder."""
    start = model.generation_config.decoder_start_token_id
    start = getattr(model.config, "decoder_start_token_id", None) if start is None else start
    if start is None:
        raise CaptureError(
            f"The config of {type(model).__name__} does not say which token its decoder starts with. Set "
            "decoder_start_token_id in the config."
        )
    ids = torch.full((sequences, 1), start, device=model.device)
    return Batch(ids, torch.ones_like(ids))


def _given_ids(model: PreTrainedModel, token_ids: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    vocabulary = model.config.get_text_config().vocab_size
    if not all(0 <= token < vocabulary for row in token_ids for token in row):
        raise InvalidPrompt(f"A token id is not from 0 to {vocabulary - 1:,}, which are the tokens of this model.")
    return [list(row) for row in token_ids]


def _ids_of_texts(tokenizer: PreTrainedTokenizerBase, request: CaptureRequest) -> list[list[int]]:
    """Tokenise. A chat template writes its own special tokens: then the tokenizer adds none."""
    texts, how = request.texts, {}
    if request.chat:
        texts, how = [as_text(tokenizer, chat) for chat in request.conversations], {"add_special_tokens": False}
    ids = [tokenizer(text, verbose=False, **how)["input_ids"] for text in texts]
    if not all(ids):
        raise InvalidPrompt("The tokenizer makes no tokens of this prompt. Type some text for the model to read.")
    return ids


def in_one_batch(model: PreTrainedModel, ids: list[list[int]], max_new_tokens: int) -> Batch:
    """Check against the context, and pad on the left: generation goes on from the right end.

    An encoder's prompts are padded on the right, so that padding takes no slots of experts with a capacity.
    """
    longest = max(map(len, ids))
    check_context(longest, max_new_tokens, context_length(model.config))
    device = torch.device("cpu") if model.device.type == "meta" else model.device
    filler = ids[0][0]  # padding is masked, so any token will do; many models name no padding token
    if model.config.is_encoder_decoder:
        filler = model.config.pad_token_id
        padded = [(row + [filler] * (longest - len(row)), [1] * len(row) + [0] * (longest - len(row))) for row in ids]
    else:
        padded = [([filler] * (longest - len(row)) + row, [0] * (longest - len(row)) + [1] * len(row)) for row in ids]
    input_ids, mask = (torch.tensor(part, device=device) for part in zip(*padded, strict=True))
    return Batch(input_ids, mask)


def check_context(tokens: int, max_new_tokens: int, limit: int | None) -> None:
    """Raise `InvalidPrompt` if a prompt of this many tokens, with the new ones, does not fit into the context."""
    if limit is None or tokens + max_new_tokens <= limit:
        return
    asked = f"{tokens:,} tokens" + (f" and asks for {max_new_tokens:,} more" if max_new_tokens else "")
    fit = max(limit - max_new_tokens, 0)
    raise InvalidPrompt(
        f"The prompt has {asked}, but this model's context holds {limit:,}: a prompt of {fit:,} tokens fits. Shorten "
        "the prompt" + (", or generate fewer tokens." if max_new_tokens else ".")
    )


def token_spans(tokenizer: PreTrainedTokenizerBase, text: str) -> list[Span] | None:
    """Return the characters that each token of a text stands for, special tokens left out; None if nobody knows."""
    if not tokenizer.is_fast:
        return None
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [(int(start), int(end)) for start, end in read["offset_mapping"]]
