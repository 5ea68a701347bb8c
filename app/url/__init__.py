"""Addresses of pages: the fields in them, the links that repeat a view, short keys in place of prompts."""
