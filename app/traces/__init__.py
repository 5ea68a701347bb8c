"""The traces that visitors keep: in a tab, on the disk of the machine's own user, in files."""
