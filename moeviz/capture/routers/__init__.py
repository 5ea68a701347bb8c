"""Routers: which a model declares, and how each kind answers."""
