"""What a router is: which a model declares, and how each kind answers."""
