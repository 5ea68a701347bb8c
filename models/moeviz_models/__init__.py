"""Weights of the embedded model's siblings: a folder each, as transformers' `save_pretrained` writes it.

`moeviz.embedded.own_models` has their names, says what each was trained for, and finds them here.
"""
