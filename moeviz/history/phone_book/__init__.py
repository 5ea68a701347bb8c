"""What experts are for: a phone book that they hold more of, and a rule that they do not help to find."""
