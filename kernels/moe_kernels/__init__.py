"""Instrumented Triton kernels for MoE routing. Knows nothing of moeviz. Empty until the first kernel is measured."""
