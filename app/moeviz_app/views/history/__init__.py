"""The pages of the history gallery, one a system. `gallery.py` is what they have in common."""
