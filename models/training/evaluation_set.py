"""Make what the evaluation ships with: `python -m models.training.evaluation_set CORPUS TOKENIZER`.

That is the evaluation set, chosen from what was held out, and the byte models that its losses are measured against.
The set ships, so only texts that may be passed on without conditions on the rest of moeviz are taken: public domain,
permissive licences, and for modern text in other languages MPL-2.0, whose terms hold file by file.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path

from tokenizers import Tokenizer

from models.evaluate.byte_models import ByteModel, fit_ngrams, save_ngrams
from models.training.documents import is_held_out, read_documents
from moeviz.embedded.evaluation import DOMAINS, FILE, EvaluationText

TEXTS = 4  # a domain
TOKENS = 1_020  # a text: with the first <s>, within the context of 1,024
SHARE_ALIKE = re.compile(r"GPL|CC-BY-SA")


def choose_evaluation_set(corpus: Path, tokenizer: Tokenizer) -> list[EvaluationText]:
    """TEXTS texts a domain, from one source after the other."""
    chosen = []
    for domain in DOMAINS:
        by_source = defaultdict(list)
        for document in read_documents(corpus, domain):
            # Poems are in the public domain whatever the package around them.
            if is_held_out(document) and not SHARE_ALIKE.search(document["licence"].split("(package")[0]):
                by_source[document["source"]].append(document)
        texts = [_texts(domain, documents, tokenizer) for documents in by_source.values()]
        chosen += list(islice(_in_turn(texts), TEXTS))
    return chosen


def _in_turn(sources: list[Iterator[EvaluationText]]) -> Iterator[EvaluationText]:
    """One of each source, again and again, until all are used up."""
    left = set(range(len(sources)))
    for number in cycle(range(len(sources))):
        if not left:
            return
        if number in left:
            if (text := next(sources[number], None)) is None:
                left.remove(number)
            else:
                yield text


def _texts(domain: str, documents: list[dict[str, str]], tokenizer: Tokenizer) -> Iterator[EvaluationText]:
    """Documents of one source, short ones joined until TOKENS are full; a rest that fills less is left out."""
    text, files = "", []
    for document in documents:
        text += ("\n\n" if text else "") + document["text"]
        files.append(document["file"])
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if len(encoding.ids) >= TOKENS:
            cut = text[: encoding.offsets[TOKENS - 1][1]]
            yield EvaluationText(domain, cut, document["source"], "; ".join(files), document["licence"])
            text, files = "", []


def fit_byte_models(corpus: Path) -> dict[str, ByteModel]:
    """A byte model of each domain, of all its training text."""
    return {
        domain: fit_ngrams(d["text"] for d in read_documents(corpus, domain) if not is_held_out(d))
        for domain in DOMAINS
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m models.training.evaluation_set", description=__doc__)
    parser.add_argument("corpus", type=Path, metavar="CORPUS")
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER", help="tokenizer.json")
    arguments = parser.parse_args()
    chosen = choose_evaluation_set(arguments.corpus, Tokenizer.from_file(str(arguments.tokenizer)))
    lines = (json.dumps(asdict(text), ensure_ascii=False) + "\n" for text in chosen)
    FILE.write_text("".join(lines), encoding="utf-8")
    save_ngrams(fit_byte_models(arguments.corpus))


if __name__ == "__main__":
    main()
