"""A corpus past what fits into memory: texts in, a dataset on disk out, and the metrics' numbers of it."""
