"""1994: a tree of gates, by expectation maximisation."""
