"""Models that MLX runs: folders of mlx-lm, on Apple's GPUs, on CUDA and on Linux's CPUs alike."""
