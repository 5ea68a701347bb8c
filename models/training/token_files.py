"""The tokenised corpus: a flat file of token ids for each domain, one to train on and one held out."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from models.training.documents import DOMAINS, is_held_out, read_documents

BOS, EOS = 1, 2
CHUNK = 64  # documents that the tokenizer takes at once
SPLITS = ("train", "held_out")


def tokenise(corpus: Path, tokenizer_file: Path, out: Path) -> None:
    """Write `<domain>.train.bin` and `<domain>.held_out.bin` (uint16), and the bytes per held-out token."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    out.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        ids: dict[str, list[int]] = {split: [] for split in SPLITS}
        held_out_bytes = 0
        documents = list(read_documents(corpus, domain))
        for start in range(0, len(documents), CHUNK):
            chunk = documents[start : start + CHUNK]
            encodings = tokenizer.encode_batch([d["text"] for d in chunk], add_special_tokens=False)
            for document, encoding in zip(chunk, encodings, strict=True):
                held_out = is_held_out(document)
                ids[SPLITS[held_out]] += [BOS, *encoding.ids, EOS]
                held_out_bytes += held_out * len(document["text"].encode())
        for split in SPLITS:
            np.array(ids[split], np.uint16).tofile(out / f"{domain}.{split}.bin")
        facts = {"bytes_per_token": held_out_bytes / len(ids["held_out"]), "train_tokens": len(ids["train"])}
        (out / f"{domain}.json").write_text(json.dumps(facts))


class Windows:
    """Random stretches of the tokenised corpus, every domain as often as any other.

    The draw of a step depends on the seed and the step alone, so that a resumed run goes on exactly where it was.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.seed = seed
        self.ids = [np.memmap(folder / f"{domain}.train.bin", np.uint16, "r") for domain in DOMAINS]

    def draw(self, step: int, windows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (windows, length + 1), and the number of the domain of each window."""
        rng = np.random.default_rng([self.seed, step])
        domains = rng.integers(len(DOMAINS), size=windows)
        starts = [rng.integers(len(self.ids[domain]) - length) for domain in domains]
        ids = [self.ids[domain][start : start + length + 1] for domain, start in zip(domains, starts, strict=True)]
        return np.stack(ids).astype(np.int64), domains


def held_out_windows(folder: Path, domain: str, windows: int, length: int) -> np.ndarray:
    """Token ids (windows, length + 1) of held-out text, evenly spread; fewer where the text is short."""
    ids = np.fromfile(folder / f"{domain}.held_out.bin", np.uint16).astype(np.int64)
    windows = max(1, min(windows, (len(ids) - 1) // length))
    starts = np.linspace(0, len(ids) - length - 1, windows).astype(int)
    return np.stack([ids[start : start + length + 1] for start in starts])


def bytes_per_token(folder: Path, domain: str) -> float:
    """How many bytes of held-out text one token stands for, on average."""
    return json.loads((folder / f"{domain}.json").read_text())["bytes_per_token"]
