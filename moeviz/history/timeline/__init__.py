"""Timeline of the systems: their years, their sizes, and a check of printed parameter counts."""
