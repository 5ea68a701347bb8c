"""Token texts, on byte-level BPE, on SentencePiece with byte fallback, and where characters are split."""

import pytest
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from moeviz.capture.run.token_texts import token_texts


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def sentencepiece():
    """A Llama-like tokenizer: ▁ for a space, bytes for what it does not know, a leading space dropped on decode."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁the",
        "▁",
        "cat",
        "the",
        "ï¿½",
        "\ufffd",
    ]
    backend = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("text", ["Il fait froid à Paris.", "if x:\n\treturn  1", "naïve", "null NA =1+1", " a"])
def test_texts_join_to_the_prompt(tokenizer, text):
    assert "".join(token_texts(tokenizer, tokenizer(text)["input_ids"])[1:]) == text


def test_parts_of_a_character_show_the_character_and_their_number(tokenizer):
    assert token_texts(tokenizer, tokenizer("a😀b")["input_ids"]) == [
        *["<s>", "a"],
        *[f"⟨😀 {i}/4⟩" for i in range(1, 5)],
        "b",
    ]


def test_a_broken_character_shows_the_tokenizer_s_own_name(tokenizer):
    smile = tokenizer("😀", add_special_tokens=False)["input_ids"]
    assert token_texts(tokenizer, smile[:2]) == [f"⟨{p}⟩" for p in tokenizer.convert_ids_to_tokens(smile[:2])]


@pytest.mark.parametrize("text", ["a\ufffdb", "\ufffd", "\ufffd\ufffd", "é\ufffd😀"])
def test_a_replacement_character_that_was_typed_is_a_character_like_any_other(tokenizer, text):
    texts = token_texts(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    parts = [f"⟨\ufffd {i}/3⟩" for i in (1, 2, 3)]
    assert "".join(texts).replace("".join(parts), "\ufffd") == text.replace(
        "😀", "".join(f"⟨😀 {i}/4⟩" for i in range(1, 5))
    )


def test_a_typed_replacement_character_does_not_hide_a_broken_one_next_to_it(tokenizer, sentencepiece):
    smile, typed = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("😀", "\ufffd"))
    whole = [f"⟨\ufffd {i}/3⟩" for i in (1, 2, 3)]
    broken = [f"⟨{name}⟩" for name in tokenizer.convert_ids_to_tokens([*smile[:2], *typed[:2]])]
    assert token_texts(tokenizer, [*smile[:2], *typed, *typed[:2]]) == [*broken[:2], *whole, *broken[2:]]
    ids = sentencepiece.convert_tokens_to_ids(["<0xF0>", "<0xEF>", "<0xBF>", "<0xBD>", "<0xEF>", "<0xBF>"])
    assert token_texts(sentencepiece, ids) == ["⟨<0xF0>⟩", *whole, "⟨<0xEF>⟩", "⟨<0xBF>⟩"]


def test_the_characters_by_which_bytes_are_named_are_text_too(tokenizer, sentencepiece):
    assert "⟨ï" not in "".join(token_texts(tokenizer, tokenizer("ï¿½")["input_ids"]))
    ids = sentencepiece.convert_tokens_to_ids(["ï¿½", "<0xF0>", "\ufffd", "<0xF0>", "ï¿½"])
    assert token_texts(sentencepiece, ids) == ["ï¿½", "⟨<0xF0>⟩", "\ufffd", "⟨<0xF0>⟩", "ï¿½"]


def test_sentencepiece_keeps_leading_spaces(sentencepiece):
    ids = sentencepiece.convert_tokens_to_ids(["<s>", "▁the", "cat", "▁the"])
    assert token_texts(sentencepiece, ids) == ["<s>", " the", "cat", " the"]


def test_sentencepiece_bytes_become_characters(sentencepiece):
    ids = sentencepiece.convert_tokens_to_ids(["<0xC3>", "<0xA9>", "cat", "<0xF0>"])
    assert token_texts(sentencepiece, ids) == ["⟨é 1/2⟩", "⟨é 2/2⟩", "cat", "⟨<0xF0>⟩"]
