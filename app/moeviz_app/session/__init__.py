"""The session of one visitor: choices on screen, and a library of traces, counts, training runs and datasets."""
