"""One file or folder per question: a model and texts, or a trace, become a result with its frames and claims."""
