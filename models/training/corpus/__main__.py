"""`python -m models.training.corpus`."""

from models.training.corpus.build import main

main()
