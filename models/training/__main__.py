"""Make the embedded model: `python -m models.training WORK --minutes 120`.

Corpus, tokenizer, tokens, training and export, each into its own folder of WORK. What is there already is used, and a
training run that was stopped goes on. Options are those of `train.py`.
"""

import argparse
import logging
import sys
from pathlib import Path

from models.training.corpus.build import build_corpus
from models.training.export import export_model
from models.training.token_files import tokenise
from models.training.tokenizer import train_tokenizer
from models.training.train import Run, parse, train


def make_model(work: Path, options: list[str]) -> None:
    """All steps in turn."""
    corpus, tokenizer, tokens, run, model = (work / part for part in ("corpus", "tokenizer", "tokens", "run", "model"))
    arguments = parse([str(tokens), str(run), *options])  # wrong options are named before anything is fetched
    if not (corpus / "corpus.json").exists():
        build_corpus(work / "cache", corpus)
    if not (tokenizer / "tokenizer.json").exists():
        train_tokenizer(corpus, tokenizer)
    if not tokens.exists():
        tokenise(corpus, tokenizer / "tokenizer.json", tokens)
    training = Run(arguments)
    training.model.compile_parts()
    train(training)
    export_model(run / "checkpoint.pt", tokenizer, model)


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    parser.add_argument("work", type=Path, metavar="WORK", help="a folder with room for 2 GB")
    arguments, options = parser.parse_known_args()
    make_model(arguments.work, options)


if __name__ == "__main__":
    main()
