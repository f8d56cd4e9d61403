"""Images and weights for the tests of metrics, generated here; nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from zigma_bench.data.images import ArrayImages

sys.path[:0] = [str(Path(__file__).parent)]  # golden_features.py, which is also run by hand


@pytest.fixture(autouse=True)
def _one_thread():
    """Test processes run in parallel; additional threads would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> ArrayImages:
    """scikit-learn's 1,797 digits, uint8 [1797, 1, 8, 8]."""
    from sklearn.datasets import load_digits

    return ArrayImages(np.round(load_digits().images * (255 / 16)).astype(np.uint8)[:, None])


@pytest.fixture
def noise():
    """`noise(n, shape, seed)`: images of independent uniform pixels."""

    def make(count: int, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> ArrayImages:
        return ArrayImages(np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8))

    return make


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A file that fits torch-fidelity's Inception v3, drawn so that activations keep their scale through all layers."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Bare(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict, *args, **kwargs):
            assert state_dict == {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda url, progress: {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Bare("inception-v3-compat", ["2048"])
            for layer in network.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("weights") / "made.pth"
    torch.save(network.state_dict(), path)
    return path
