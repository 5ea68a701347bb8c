"""Is moeviz right on every MoE of the installed transformers? A random tiny model of each, and a witness beside it."""
