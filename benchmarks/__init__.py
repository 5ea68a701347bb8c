"""Commands that print ratios and figures. Run them as modules: `python -m benchmarks.capture`."""
