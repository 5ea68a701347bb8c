"""GGUF models, run by llama.cpp: what their files say, and what their routers decide while the engine computes."""
