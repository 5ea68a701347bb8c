"""A corpus of routing on disk: a folder of shards, a row a token, that is read where it lies and never whole."""
