"""2002: support vector machines as experts, each with a limit of examples."""
