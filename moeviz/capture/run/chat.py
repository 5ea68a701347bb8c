"""A text as a user's turn of a chat, written out by the tokenizer's own template; and what the template added."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from moeviz.errors import CaptureError, InvalidPrompt

MARKS = ("\ue000user\ue001", "\ue000system\ue001")  # of the private use area: no template has them, and no text need
Span = tuple[int, int]


@runtime_checkable
class Templated(Protocol):
    """A tokenizer that can write a chat, as every one of transformers can."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, str]], **how: Any) -> Any:
        """Turns of a chat as one text."""


def as_turn(tokenizer: Templated, text: str, system: str | None = None) -> str:
    """The text as the user's turn, up to where the model's answer begins; before it the system prompt, if there is one.

    Raises `CaptureError` where the tokenizer has no chat template, and `InvalidPrompt` for what the template refuses.
    """
    if not tokenizer.chat_template:
        raise CaptureError(
            f"{type(tokenizer).__name__} has no chat template, so this text cannot be sent as a turn of a chat. Leave "
            "chat out: the model then reads the text as it is."
        )
    messages = [{"role": role, "content": said} for role, said in (("system", system), ("user", text)) if said]
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # a template is a stranger's program: it may raise anything
        raise InvalidPrompt(
            f"The tokenizer's chat template does not take this: {error or type(error).__name__}. Leave out the system "
            "prompt, or chat."
        ) from error


def added_by_template(
    tokenizer: PreTrainedTokenizerBase, text: str, system: str | None = None
) -> tuple[bool, ...] | None:
    """Of each token of the prompt, whether the template added it: no character of it is of the text or system prompt.

    None where that cannot be told: the template changes what it is given, or the tokenizer does not say which
    characters a token stands for.
    """

    def spans_of(whole: str) -> list[Span] | None:
        if not tokenizer.is_fast:
            return None
        read = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        found: list[Span] = read["offset_mapping"]
        return found

    return added(tokenizer, spans_of, text, system)


def added(
    tokenizer: Templated, spans_of: Callable[[str], list[Span] | None], text: str, system: str | None = None
) -> tuple[bool, ...] | None:
    """Tell the template's tokens for any tokenizer; `spans_of` gives the characters that each token stands for."""
    whole = as_turn(tokenizer, text, system)
    given, tokens = _spans(tokenizer, whole, text, system), spans_of(whole)
    if given is None or tokens is None:
        return None
    return tuple(not any(start < last and first < end for first, last in given) for start, end in tokens)


def _spans(tokenizer: Templated, whole: str, text: str, system: str | None) -> list[Span] | None:
    """Where the text and the system prompt stand in what the template made of them, with or without spaces around."""
    given = [part for part in (text, system) if part]
    marked = as_turn(tokenizer, MARKS[0], MARKS[1] if system else None)
    marks = MARKS[: len(given)]
    if any(marked.count(mark) != 1 for mark in marks):
        return None
    for as_it_stands in (given, [part.strip() for part in given]):
        filled, spans = _filled(marked, dict(zip(marks, as_it_stands, strict=True)))
        if filled == whole:
            return spans
    return None


def _filled(marked: str, texts: dict[str, str]) -> tuple[str, list[Span]]:
    """The text with each mark replaced, and where the replacements stand."""
    spans: list[Span] = []
    for mark in sorted(texts, key=marked.index):
        first = marked.index(mark)
        marked = marked[:first] + texts[mark] + marked[first + len(mark) :]
        spans.append((first, first + len(texts[mark])))
    return marked, spans


def turns(tokenizer: Templated, prompts: Sequence[str], system: str | None) -> list[str]:
    """Each prompt as a turn of its own. An empty one stays empty, to be refused as every empty prompt is."""
    return [as_turn(tokenizer, prompt, system) if prompt else prompt for prompt in prompts]
