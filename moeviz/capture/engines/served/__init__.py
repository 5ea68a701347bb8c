"""Models that a server runs, vLLM or SGLang: asked over HTTP, and each answer read as a file from a stranger is."""
