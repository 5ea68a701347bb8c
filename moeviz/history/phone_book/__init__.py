"""What experts are for: they hold more of a phone book, and do not help to find a rule."""
