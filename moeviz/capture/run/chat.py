"""Chats: messages as one text, by the tokenizer's own template, and the segment of a chat that each token belongs to.

A segment is found, never guessed. Each part of the messages is replaced by a mark; only if the template's text, with
the marks filled in again, is the very text that the model reads, is it known where each part stands.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from moeviz.errors import CaptureError, InvalidPrompt
from moeviz.text import cut

Message = Mapping[str, Any]  # role, content, and what else a template knows, as tool_calls
Conversation = tuple[Message, ...]
Prompt = str | Conversation
Span = tuple[int, int]

TURN, THINK, CALL, ANSWER = "turn", "think", "tool call", "answer"  # turn: what the template adds between the parts
NAMES = {"assistant": ANSWER, "tool": "tool result", "developer": "system"}  # other roles are called as they are
FIELDS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
MARK = "\ue000{}\ue001"  # of the private use area: no template has them, and no text need
OPEN, CLOSE = "<think>", "</think>"
THOUGHT = re.compile(rf"\s*{OPEN}(.*?){CLOSE}", re.DOTALL)
CALLED = re.compile(r"\s*<tool_call>.*?(?:</tool_call>|$)\s*", re.DOTALL)
A_FILE = '[{"role": "user", "content": "Il fait froid."}]'


@runtime_checkable
class Templated(Protocol):
    """A tokenizer that can write a chat, as every one of transformers can."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, Any]], **how: Any) -> Any:
        """Write the turns of a chat as one text."""


def conversation_of(prompt: Prompt, system: str | None = None) -> Conversation:
    """Return a text as a user's turn, after the system prompt if there is one; a conversation as it is."""
    if not isinstance(prompt, str):
        return prompt
    return tuple({"role": role, "content": text} for role, text in (("system", system), ("user", prompt)) if text)


def conversations_in(text: str) -> tuple[Conversation, ...]:
    """Read conversations: JSON, or JSON lines, with a list of messages, or an object that has them under "messages".

    Raises `InvalidPrompt` for anything else.
    """
    try:
        try:
            found = [json.loads(text)]
        except json.JSONDecodeError:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        why = cut(str(error))
        raise InvalidPrompt(f"This is not a conversation in JSON: {why}. Give messages as {A_FILE}.") from error
    if found and all(isinstance(one, dict) and "role" in one for one in found):
        found = [found]  # a message per line
    return tuple(checked(one.get("messages") if isinstance(one, dict) else one) for one in found or [[]])


def checked(messages: Any) -> Conversation:
    """Return a conversation that a template can be given. Raises `InvalidPrompt` for what is not one."""
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidPrompt(f"A conversation is {cut(repr(messages), 60)}; it must be a list of messages as {A_FILE}.")
    return tuple(map(_checked_message, messages))


def _checked_message(message: Any) -> Message:
    kept = (
        {name: message[name] for name in FIELDS if message.get(name) is not None}
        if isinstance(message, Mapping)
        else {}
    )
    content, calls = kept.get("content", ""), kept.get("tool_calls", [])
    if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
        content = "".join(str(part["text"]) for part in content)
    texts = (kept.get("role"), content, kept.get("reasoning_content", ""))
    if not all(isinstance(text, str) for text in texts) or not isinstance(calls, list):
        raise InvalidPrompt(
            f"A message must be an object with a role and a text, as {A_FILE[1:-1]}, not {cut(repr(message), 60)}."
        )
    return kept | {"content": content} | ({"tool_calls": [_parsed(call) for call in calls]} if calls else {})


def _parsed(call: Any) -> Any:
    """Return a tool call with its arguments as an object, as templates want them; a service sends them as JSON."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return call | {"function": function | {"arguments": json.loads(function["arguments"])}}
    except (ValueError, RecursionError):
        return call


def as_text(tokenizer: Templated, messages: Sequence[Message]) -> str:
    """Write messages as one text; if the last is not the model's, up to where its answer begins.

    Raises `CaptureError` if the tokenizer has no chat template, and `InvalidPrompt` for what the template refuses.
    """
    if not tokenizer.chat_template:
        raise CaptureError(
            f"{type(tokenizer).__name__} has no chat template, so this text cannot be sent as a turn of a chat. Leave "
            "chat out: the model then reads the text as it is."
        )
    goes_on = messages[-1]["role"] != "assistant"
    try:
        given = [dict(message) for message in messages]
        return str(tokenizer.apply_chat_template(given, add_generation_prompt=goes_on, tokenize=False))
    except Exception as error:  # a template is a stranger's program: it may raise anything
        raise InvalidPrompt(
            f"The tokenizer's chat template does not take this: {error or type(error).__name__}. Leave out the system "
            "prompt, or chat."
        ) from error


class PromptSegments(NamedTuple):
    """The segment of each token of a prompt, and what is needed to find those of the tokens that follow it."""

    names: tuple[str, ...]
    thinks: bool  # the prompt ends within a thought
    template: str


def prompt_segments(
    tokenizer: Templated, spans_of: Callable[[str], list[Span] | None], messages: Conversation
) -> PromptSegments | None:
    """Find the segment of each token of a conversation; None if that cannot be known.

    spans_of  gives the characters that each token of a text stands for; None if nobody knows.

    It cannot if the template changes or refuses what it is given, or a token has characters of two parts.
    """
    whole = as_text(tokenizer, messages)
    found, tokens = None, spans_of(whole)
    with suppress(InvalidPrompt):  # a template may refuse marks
        found = _parts(tokenizer, whole, messages, trimmed=False) or _parts(tokenizer, whole, messages, trimmed=True)
    if not found or tokens is None or (names := _by_token(found, tokens, len(whole), TURN)) is None:
        return None
    return PromptSegments(names, whole.rstrip().endswith(OPEN), str(tokenizer.chat_template))


def with_segments(tokens: pd.DataFrame, found: Sequence[PromptSegments | None]) -> pd.DataFrame:
    """Return a trace's tokens with a column `segment`, if the segments of all its prompts and answers are known.

    found  of each prompt; several sequences may begin with the same one.
    """
    if not any(found):
        return tokens
    names: list[str] = []
    sequences = [part for _, part in tokens.groupby("sequence", sort=False)]
    for number, part in enumerate(sequences):
        prompt, written = found[number * len(found) // len(sequences)], part["phase"] == "generated"
        generated = None if prompt is None else _generated(part.loc[written, "text"].tolist(), prompt)
        if prompt is None or generated is None or len(prompt.names) != (~written).sum():
            return tokens
        names += [*prompt.names, *generated]
    return tokens.assign(segment=pd.Series(names, tokens.index, "str"))


def _generated(texts: list[str], prompt: PromptSegments) -> tuple[str, ...] | None:
    """Divide generated tokens at the tags that the template itself knows; the rest is the answer."""
    text, begins = "".join(texts), 0
    parts = [(ANSWER, 0, len(text))]
    if CLOSE in prompt.template and (prompt.thinks or text.lstrip().startswith(OPEN)):
        closed = re.search(rf"{CLOSE}\s*", text)
        begins = closed.end() if closed else len(text)
        parts.append((THINK, 0, begins))
    if "<tool_call>" in prompt.template:
        parts += [(CALL, *call.span()) for call in CALLED.finditer(text, begins)]
    ends = np.cumsum([0, *map(len, texts)]).tolist()
    return _by_token(parts, list(pairwise(ends)), len(text), ANSWER)


def _by_token(parts: list[tuple[str, int, int]], tokens: list[Span], length: int, rest: str) -> tuple[str, ...] | None:
    """Name each token after the part that its characters are of; None if one has characters of two parts."""
    at = np.zeros(length, np.int32)
    for number, (_, start, end) in enumerate(parts, start=1):
        at[start:end] = number
    named = [set(at[start:end].tolist()) - {0} for start, end in tokens]
    if any(len(own) > 1 for own in named):
        return None
    return tuple(parts[own.pop() - 1][0] if own else rest for own in named)


def _parts(
    tokenizer: Templated, whole: str, messages: Conversation, trimmed: bool
) -> list[tuple[str, int, int]] | None:
    """Find the parts of messages in the template's output, as they stand or without spaces around."""
    texts: list[tuple[str, str]] = []  # the name of a part, and its text
    marked = [_marked(message, texts, trimmed) for message in messages]
    if not texts:
        return None
    now = as_text(tokenizer, marked)
    places = [(now.find(MARK.format(number)), number) for number in range(len(texts))]
    if any(now.count(MARK.format(number)) != (at >= 0) for at, number in places) or any(
        at < 0 and texts[number][0] != THINK
        for at, number in places  # earlier thoughts may be left out
    ):
        return None
    parts = [(*texts[number], at, at + len(MARK.format(number))) for at, number in places if at >= 0]
    for row, message in enumerate(messages):
        if message.get("tool_calls"):
            if (call := _call(tokenizer, now, marked, row)) is None:
                return None
            parts.append((CALL, now[slice(*call)], *call))
    filled, found, done = "", list[tuple[str, int, int]](), 0
    for name, text, start, end in sorted(parts, key=lambda part: part[2]):
        filled += now[done:start]
        found.append((name, len(filled), len(filled) + len(text)))
        filled, done = filled + text, end
    if filled + now[done:] != whole:
        return None
    return [
        (name, *_with_tags(whole, start, end)) if name == THINK else (name, start, end) for name, start, end in found
    ]


def _marked(message: Message, texts: list[tuple[str, str]], trimmed: bool) -> Message:
    """Replace the parts of a message by marks, and add them to `texts`."""

    def mark(name: str, text: str) -> str:
        core = text.strip() if trimmed else text
        if not core.strip():
            return text
        texts.append((name, core))
        return text.replace(core, MARK.format(len(texts) - 1), 1)

    role: str = message["role"]
    name, out = NAMES.get(role, role), dict(message)
    if reasoning := message.get("reasoning_content"):
        out["reasoning_content"] = mark(THINK, reasoning)
    content = message["content"]
    if name == ANSWER and (thought := THOUGHT.match(content)):
        first, last = thought.span(1)
        out["content"] = content[:first] + mark(THINK, content[first:last]) + CLOSE
        out["content"] += mark(name, content[last + len(CLOSE) :])
    else:
        out["content"] = mark(name, content)
    return out


def _call(tokenizer: Templated, now: str, marked: list[Message], row: int) -> Span | None:
    """Find what the tool calls of a message add: before and after it, the messages read the same without them."""
    content, added = marked[row]["content"], MARK.format("call")
    last = re.search(MARK.format(r"\d+") + r"\s*$", content)
    ends, kept = (last[0].strip(), len(last[0].strip())) if last else (added, 0)
    without = {name: value for name, value in marked[row].items() if name != "tool_calls"}
    without["content"] = content if last else content + added
    other = as_text(tokenizer, [*marked[:row], without, *marked[row + 1 :]])
    before, _, after = other.partition(ends)
    before += ends[:kept]
    if other.count(ends) != 1 or not now.startswith(before) or not now.endswith(after):
        return None
    call = len(before), len(now) - len(after)
    return call if call[0] <= call[1] else None


def _with_tags(text: str, start: int, end: int) -> Span:
    """Widen a thought by the tags right before and after it."""
    before, after = re.search(rf"{OPEN}\s*$", text[:start]), re.match(rf"\s*{CLOSE}", text[end:])
    return (before.start() if before else start), (end + after.end() if after else end)
