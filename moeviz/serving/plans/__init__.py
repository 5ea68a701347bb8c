"""Plans of which expert goes where, as files that inference engines read."""
