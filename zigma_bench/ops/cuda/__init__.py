"""CUDA C++ kernels, compiled at first use by NVRTC for the card at hand and kept on disk."""
