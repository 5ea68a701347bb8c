"""What a model is: how it is opened, what it weighs, how many parameters it has."""
