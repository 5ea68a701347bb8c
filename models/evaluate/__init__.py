"""Evaluation of the embedded model, from the files that ship alone: `python -m models.evaluate`.

With the names of several models behind it, one table of all of them: their losses and their routing on the same texts.
"""
