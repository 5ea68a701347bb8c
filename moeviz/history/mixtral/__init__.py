"""2023: the claims about Mixtral, and what is measured here."""
