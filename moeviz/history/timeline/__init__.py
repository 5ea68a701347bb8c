"""When each system came, how large it was, and whether its printed counts agree."""
