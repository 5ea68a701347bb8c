"""1991: adaptive mixtures of local experts."""
