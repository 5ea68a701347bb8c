"""What one visitor has: the choices on screen, and a library of traces, counts, training runs and datasets."""
