"""Routing as other programs write it: one file a format.

To add one: write `recognise(source)` and `read(source, options)` in a new file that ends in `FORMAT = Importer(…)`, and
add its name to `MODULES` in `table.py`.
"""
