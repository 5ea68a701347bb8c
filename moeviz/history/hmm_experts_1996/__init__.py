"""1996: hidden Markov models as experts, and a gate over time."""
