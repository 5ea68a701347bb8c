"""What is run: prompts, generation, the text of each token."""
