"""Token texts, on byte-level BPE, on SentencePiece with byte fallback, and where characters are split."""

import pytest
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from moeviz.capture.run.texts import token_texts


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def sentencepiece():
    """A Llama-like tokenizer: ▁ for a space, bytes for what it does not know, a leading space dropped on decode."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁", "cat", "the"]
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


def test_the_replacement_character_itself_is_text(tokenizer):
    ids = tokenizer("a\ufffdb", add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert texts[0] == "a" and texts[-1] == "b" and len(texts) == len(ids)


def test_sentencepiece_keeps_leading_spaces(sentencepiece):
    ids = sentencepiece.convert_tokens_to_ids(["<s>", "▁the", "cat", "▁the"])
    assert token_texts(sentencepiece, ids) == ["<s>", " the", "cat", " the"]


def test_sentencepiece_bytes_become_characters(sentencepiece):
    ids = sentencepiece.convert_tokens_to_ids(["<0xC3>", "<0xA9>", "cat", "<0xF0>"])
    assert token_texts(sentencepiece, ids) == ["⟨é 1/2⟩", "⟨é 2/2⟩", "cat", "⟨<0xF0>⟩"]
