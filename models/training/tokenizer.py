"""Train the tokenizer: byte-level BPE, so that every text comes back exactly as it went in."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from models.training.documents import DOMAINS, read_documents

VOCABULARY = 8_192
CONTEXT = 1_024
PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # ids 0, 1, 2
# Words with their leading space; digits one by one, so that sums can be carried; runs of punctuation; line ends.
SPLIT = r"""[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
BYTES_PER_DOMAIN = 1_200_000
# Generated and repetitive text needs fewer of the vocabulary's entries; letters of two or three bytes need more.
BYTES_OF = {
    "json": 300_000,
    "sql": 300_000,
    "arithmetic": 100_000,
    "html": 700_000,
    "chinese": 1_600_000,
    "russian": 1_500_000,
}
BYTES_PER_DOCUMENT = 20_000


def train_tokenizer(corpus: Path, out: Path) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of 8,192 from a balanced sample of the corpus and save it in transformers' format."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # all 256 bytes: no text is unknown
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_sample(corpus), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)
    return fast


def _sample(corpus: Path) -> Iterator[str]:
    for domain in DOMAINS:
        left = BYTES_OF.get(domain, BYTES_PER_DOMAIN)
        for document in read_documents(corpus, domain):
            text = document["text"][:BYTES_PER_DOCUMENT]
            yield text
            left -= len(text.encode())
            if left < 0:
                break
