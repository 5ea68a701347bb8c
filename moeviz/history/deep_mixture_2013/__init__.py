"""2013: two layers of experts."""
