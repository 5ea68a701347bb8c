"""A run of training as it was recorded, and what its charts are drawn from: values alone, without files or torch."""
