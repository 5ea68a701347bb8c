"""`python -m moeviz.embedded.training.corpus`."""

from moeviz.embedded.training.corpus.build import main

main()
