"""2021: one expert a token, and what exceeds its capacity is dropped."""
