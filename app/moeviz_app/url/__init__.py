"""Addresses of pages: the fields in them, and the links that repeat a view."""
