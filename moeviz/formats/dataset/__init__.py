"""A corpus of routing on disk: a folder of shards, a row per token, that is read where it lies and never whole."""
