"""Chat: the text as a user's turn, by the tokenizer's own template."""

import pytest
from tiny_models import CONFIGS, TEMPLATE, tiny_model, tiny_tokenizer, tokenizer_with

import moeviz
from moeviz.capture.run.prompts import MARKS, added_by_template, as_turn
from moeviz.errors import CaptureError, InvalidPrompt

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
    with pytest.raises(CaptureError, match="has no chat template"):
        moeviz.trace(model, "One", tokenizer=tokenizer_with(None), chat=True)


def test_a_system_prompt_without_a_chat_is_refused(model):
    with pytest.raises(InvalidPrompt, match="A system prompt is part of a chat"):
        moeviz.trace(model, "One", tokenizer=tokenizer_with(TEMPLATE), system="Be brief.")


def test_what_the_template_refuses_is_one_sentence(model):
    tokenizer = tokenizer_with(NO_SYSTEM)
    with pytest.raises(InvalidPrompt, match="does not take this: no system role"):
        moeviz.trace(model, "One", tokenizer=tokenizer, chat=True, system="Be brief.")
    assert as_turn(tokenizer, "One") == "<s>[user] One\n[assistant] "


def test_a_broken_template_is_one_sentence():
    with pytest.raises(InvalidPrompt, match="chat template does not take this"):
        as_turn(tokenizer_with("{% if %}"), "One")


def test_an_empty_turn_is_an_empty_prompt(model):
    with pytest.raises(InvalidPrompt, match="The prompt is empty"):
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
    tokenizer = tokenizer_with(TEMPLATE)
    trace = moeviz.trace(model, text, tokenizer=tokenizer, chat=True, system=system)
    added = added_by_template(tokenizer, text, system)
    assert len(added) == len(trace.tokens)
    mine = trace.tokens["text"][[not of_template for of_template in added]]
    if "🙂" not in text:  # whose parts are named, not written
        assert "".join("".join(mine).split()) == "".join(f"{system or ''}{text}".split())
    template = "".join(trace.tokens["text"][list(added)])
    assert template.startswith("<s>[") and "[user" in template and "assistant]" in template


@pytest.mark.parametrize("template", [TEMPLATE.replace("trim", "upper"), TEMPLATE + MARKS[0], TEMPLATE + TEMPLATE])
def test_if_the_template_changes_the_text_its_tokens_are_unknown(template):
    assert added_by_template(tokenizer_with(template), "One two") is None
