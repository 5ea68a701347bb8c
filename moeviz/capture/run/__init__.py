"""A run of a model: the request, prompts, generation, the text of each token."""
