"""2017: a sparsely-gated layer between two LSTMs."""
