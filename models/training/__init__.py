"""How the embedded model and its siblings were made: corpus, tokenizer, training and study. Run from a checkout.

No distribution installs this, and nothing in `moeviz` imports it.
"""
