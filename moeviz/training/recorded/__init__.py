"""A run of training as it was recorded, and what its charts are drawn from: only values, without files or torch."""
