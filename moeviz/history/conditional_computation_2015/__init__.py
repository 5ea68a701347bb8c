"""2013 and 2015: blocks of a network, switched on by stochastic gates."""
