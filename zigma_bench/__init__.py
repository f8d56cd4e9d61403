"""zigma-bench compares scan orders and backbones of state-space diffusion models, so that two orders differ in the
order and in nothing else."""

from zigma_bench.plugins.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]
