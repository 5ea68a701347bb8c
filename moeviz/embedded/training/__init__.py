"""How the embedded model was made: corpus, tokenizer, training and study. Nothing here is needed to run moeviz."""
