"""Commands that print ratios, one file a question. Run them as modules: `python -m benchmarks.capture`."""
