"""Routing as other programs write it: one file a format, and `table.py` lists them.

To add one: write `recognise(source)` and `read(source, options)` in a new file, and add a row to `IMPORTERS`.
"""
