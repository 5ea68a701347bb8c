"""Chat: texts and conversations by the tokenizer's own template, and the segment that each token is of."""

import json
from itertools import groupby

import pytest
from tiny_models import CONFIGS, TEMPLATE, tiny_model, tiny_tokenizer, tokenizer_with

import moeviz
from moeviz.capture.run.chat import MARK, PromptSegments, as_text, conversation_of, conversations_in, with_segments
from moeviz.capture.run.request import CaptureRequest
from moeviz.errors import CaptureError, InvalidPrompt, MissingField
from moeviz.formats.exports import read_trace, write_trace
from moeviz.testing import sample_trace

ONLY_WORDS = "{% if messages[0].content | length < 4 %}{{ raise_exception('too short') }}{% endif %}" + TEMPLATE
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


@pytest.fixture(scope="module")
def model():
    return tiny_model(CONFIGS["mixtral"])


def text_of(trace) -> str:
    return "".join(trace.tokens["text"])


def test_the_model_reads_what_the_template_writes_and_nothing_twice(model):
    trace = moeviz.trace(model, "Il fait froid.", tokenizer=tokenizer_with(TEMPLATE), chat=True, system="Be brief.")
    assert text_of(trace) == "<s>[system] Be brief.\n[user] Il fait froid.\n[assistant] "
    assert list(trace.tokens["text"]).count("<s>") == 1


def test_without_chat_nothing_changes(model):
    trace = moeviz.trace(model, "Il fait froid.", tokenizer=tokenizer_with(TEMPLATE))
    assert trace.equals(moeviz.trace(model, "Il fait froid.", tokenizer=tiny_tokenizer()))


def test_each_of_several_prompts_is_a_turn_of_its_own(model):
    trace = moeviz.trace(model, ["One", "Two"], tokenizer=tokenizer_with(TEMPLATE), chat=True)
    assert text_of(trace) == "<s>[user] One\n[assistant] <s>[user] Two\n[assistant] "


def test_without_a_template_one_sentence_says_so(model):
    with pytest.raises(CaptureError, match="template"):
        moeviz.trace(model, "One", tokenizer=tokenizer_with(None), chat=True)


def test_a_system_prompt_without_a_chat_is_refused(model):
    with pytest.raises(InvalidPrompt, match=r"[Ss]ystem"):
        moeviz.trace(model, "One", tokenizer=tokenizer_with(TEMPLATE), system="Be brief.")


def test_what_the_template_refuses_is_one_sentence(model):
    tokenizer = tokenizer_with(NO_SYSTEM)
    with pytest.raises(InvalidPrompt, match="no system role"):
        moeviz.trace(model, "One", tokenizer=tokenizer, chat=True, system="Be brief.")
    assert as_text(tokenizer, conversation_of("One")) == "<s>[user] One\n[assistant] "


def test_a_broken_template_is_one_sentence():
    with pytest.raises(InvalidPrompt, match="template"):
        as_text(tokenizer_with("{% if %}"), conversation_of("One"))


def test_an_empty_turn_is_an_empty_prompt(model):
    with pytest.raises(InvalidPrompt, match="prompt"):
        moeviz.trace(model, "", tokenizer=tokenizer_with(TEMPLATE), chat=True)


@pytest.mark.parametrize(
    ("text", "system"),
    [
        ("Il fait froid.", None),
        ("Il fait froid.", "Be brief."),
        ("assistant", "user"),  # words that the template has too
        ("  spaces around \n", " both "),
        ("é 🙂 שלום", "<s>"),
    ],
)
def test_the_template_s_tokens_are_those_that_hold_nothing_of_the_text(model, text, system):
    trace = moeviz.trace(model, text, tokenizer=tokenizer_with(TEMPLATE), chat=True, system=system)
    added = trace.tokens["segment"] == "turn"
    assert set(trace.tokens["segment"]) == {"turn", "user", *(["system"] if system else [])}
    mine = trace.tokens["text"][~added]
    if "🙂" not in text:  # whose parts are named, not written
        assert "".join("".join(mine).split()) == "".join(f"{system or ''}{text}".split())
    template = "".join(trace.tokens["text"][added])
    assert template.startswith("<s>[") and "[user" in template and "assistant]" in template


@pytest.mark.parametrize(
    "template", [TEMPLATE.replace("trim", "upper"), TEMPLATE + MARK.format(0), TEMPLATE + TEMPLATE, ONLY_WORDS]
)
def test_if_the_template_changes_the_text_there_are_no_segments(model, template):
    trace = moeviz.trace(model, "One two", tokenizer=tokenizer_with(template), chat=True)
    assert "segment" not in trace.tokens
    with pytest.raises(MissingField):
        trace.in_segment("user")


def segments(trace) -> list[tuple[str, str]]:
    rows = zip(trace.tokens["segment"], trace.tokens["text"], strict=True)
    return [(name, "".join(text for _, text in part)) for name, part in groupby(rows, key=lambda row: row[0])]


AGENTS = (  # as Qwen's: earlier thoughts are left out, a call follows the answer
    "{% for m in messages %}[{{ m.role }}]\n{% if m.reasoning_content %}{% if loop.last %}<think>\n"
    "{{ m.reasoning_content | trim }}\n</think>\n\n{% endif %}{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "[end]\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
RUN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "user"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "An earlier thought.",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 12, "b": 7}'}}],
    },
    {"role": "tool", "content": "19"},
    {"role": "assistant", "content": "It is 19.", "reasoning_content": "19, so."},
]


def test_each_token_of_an_agent_s_run_has_its_segment(model):
    trace = moeviz.trace(model, RUN, tokenizer=tokenizer_with(AGENTS), chat=True)
    found = [(name, text.strip()) for name, text in segments(trace) if name != "turn"]
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 12, "b": 7}}\n</tool_call>'
    said = [("system", "Be brief."), ("user", "user"), ("tool call", call), ("tool result", "19")]
    assert found == [*said, ("think", "<think>\n19, so.\n</think>"), ("answer", "It is 19.")]
    assert trace.select(tokens=trace.in_segment("answer")).tokens["text"].str.cat() == "It is 19."
    with pytest.raises(MissingField, match="tool"):
        trace.in_segment("tools")


def test_what_is_generated_is_divided_at_the_tags_that_the_template_has(model):
    trace = moeviz.trace(model, "One", tokenizer=tokenizer_with(AGENTS), chat=True, max_new_tokens=4)
    assert set(trace.tokens["segment"][trace.tokens["phase"] == "generated"]) == {"answer"}
    tokenizer = tokenizer_with(AGENTS)
    words = ["<think>", "so", "</think>", "12", "<tool_call>", "{}", "</tool_call>"]
    frame = sample_trace(tokens=len(words)).tokens.assign(text=words, phase="generated")
    prompt = PromptSegments((), False, tokenizer.chat_template)
    assert list(with_segments(frame, [prompt])["segment"]) == ["think"] * 3 + ["answer"] + ["tool call"] * 3
    inside = prompt._replace(thinks=True)
    assert list(with_segments(frame.iloc[1:4], [inside])["segment"]) == ["think"] * 2 + ["answer"]
    unknown = prompt._replace(template=TEMPLATE)
    assert set(with_segments(frame, [unknown])["segment"]) == {"answer"}
    both = frame.assign(text=["<think>", "so", "</think>12", "+", "7", "=", "19"])
    assert "segment" not in with_segments(both, [prompt]), "a token is of two parts"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "npz"])
def test_segments_are_written_and_read(model, suffix, tmp_path):
    trace = moeviz.trace(model, RUN, tokenizer=tokenizer_with(AGENTS), chat=True)
    write_trace(trace, tmp_path / f"run.{suffix}")
    assert read_trace(tmp_path / f"run.{suffix}").tokens.equals(trace.tokens)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RUN),
        json.dumps({"messages": RUN, "model": "any"}),
        json.dumps({"messages": RUN}) + "\n",
        "\n".join(map(json.dumps, RUN)),
    ],
)
def test_conversations_are_read_as_services_and_agents_write_them(text):
    (found,) = conversations_in(text)
    assert [message["role"] for message in found] == ["system", "user", "assistant", "tool", "assistant"]
    assert found[2]["tool_calls"][0]["function"]["arguments"] == {"a": 12, "b": 7}
    assert len(conversations_in("\n".join([json.dumps({"messages": RUN})] * 2))) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "[3]", '[{"role": 3, "content": "a"}]', '{"text": "a"}', "[" * 100_000]
)
def test_what_is_no_conversation_is_refused(text):
    with pytest.raises(InvalidPrompt):
        conversations_in(text)
    with pytest.raises(InvalidPrompt):
        CaptureRequest(conversations_in(json.dumps(RUN)), chat=True, system="Be brief.")
