"""Instrumented Triton kernels for MoE routing. Knows nothing of moeviz."""
