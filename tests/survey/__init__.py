"""Is moeviz right on every MoE of the installed transformers? A random tiny model of each, and an oracle beside it.

`python tests/survey` runs it, and `moeviz families --check` in a checkout. See `__main__.py`.
"""
