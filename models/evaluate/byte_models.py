"""The yardstick for the embedded model's loss on the evaluation set: unigram and trigram models of bytes, per domain.

They were fitted to the training text of their own domain, so they know what the language model has to find out.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moeviz.whole_files import replacing

NGRAMS = Path(__file__).parent / "byte_ngrams.npz"


class ByteModel:
    """How often each byte follows the bytes before it, interpolated with shorter contexts.

    P(b | context) = (count(context b) + t · P(b | shorter context)) / (count(context) + t), where t is the number of
    different bytes seen after the context; with no context left, every byte has 1/256.

    Source: Witten & Bell (1991), method C, in the interpolated form of Chen & Goodman (1998), section 2.4.
    """

    def __init__(self, counts: dict[int, int]):
        """`counts` of every trigram, as the number b0 · 65536 + b1 · 256 + b2."""
        self.trigrams = counts
        self.orders = [self._marginal(order) for order in (1, 2, 3)]

    def _marginal(self, order: int) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """Counts of n-grams by their last bytes; and of each context, its occurrences and its different followers."""
        grams: dict[int, int] = {}
        for key, count in self.trigrams.items():
            short = key % 256**order
            grams[short] = grams.get(short, 0) + count
        occurrences: dict[int, int] = {}
        followers: dict[int, int] = {}
        for key, count in grams.items():
            context = key // 256
            occurrences[context] = occurrences.get(context, 0) + count
            followers[context] = followers.get(context, 0) + 1
        return grams, occurrences, followers

    def bits_per_byte(self, text: bytes, order: int) -> float:
        """Mean of −log2 P over the bytes of `text`, with order − 1 bytes of context."""
        padded = b"\n" * 2 + text
        probabilities = [self._probability(padded[i - 2 : i + 1], order) for i in range(2, len(padded))]
        return float(-np.log2(probabilities).mean())

    def _probability(self, gram: bytes, order: int) -> float:
        probability = 1 / 256
        for length in range(1, order + 1):
            grams, occurrences, followers = self.orders[length - 1]
            key = int.from_bytes(gram[3 - length :])
            seen = followers.get(key // 256, 0)
            if seen:
                probability = (grams.get(key, 0) + seen * probability) / (occurrences[key // 256] + seen)
        return probability


def fit_ngrams(texts: Iterable[str]) -> ByteModel:
    """Count the trigrams of some texts."""
    stream = np.frombuffer(b"\n\n" + b"\n\n".join(text.encode() for text in texts), np.uint8).astype(np.int64)
    keys, counts = np.unique(stream[:-2] << 16 | stream[1:-1] << 8 | stream[2:], return_counts=True)
    return ByteModel(dict(zip(keys.tolist(), counts.tolist(), strict=True)))


def save_ngrams(models: dict[str, ByteModel], file: Path = NGRAMS) -> None:
    """Write the models of all domains: sorted trigrams as differences, which pack well, and their counts."""
    arrays = {}
    for domain, model in models.items():
        keys = np.array(sorted(model.trigrams))
        arrays[f"{domain} steps"] = np.diff(keys, prepend=0).astype(np.int32)
        arrays[f"{domain} counts"] = np.array([model.trigrams[key] for key in keys.tolist()], np.int32)
    with replacing(file) as whole:
        np.savez_compressed(whole, **arrays)


def byte_models(file: Path = NGRAMS) -> dict[str, ByteModel]:
    """The models that ship, by domain."""
    with np.load(file, allow_pickle=False) as arrays:
        domains = [name.removesuffix(" steps") for name in arrays.files if name.endswith(" steps")]
        return {domain: _model(arrays[f"{domain} steps"], arrays[f"{domain} counts"]) for domain in domains}


def _model(steps: np.ndarray, counts: np.ndarray) -> ByteModel:
    return ByteModel(dict(zip(np.cumsum(steps).tolist(), counts.tolist(), strict=True)))
