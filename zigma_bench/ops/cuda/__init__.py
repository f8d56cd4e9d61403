"""CUDA C++ kernels, compiled by NVRTC for the machine's GPU at first use and cached on disk."""
