"""2023: what is claimed of Mixtral, beside what comes out here."""
