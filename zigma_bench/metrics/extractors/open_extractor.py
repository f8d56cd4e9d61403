"""Open an extractor with the weights that its options name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from zigma_bench.errors import BrokenPlugin, NotReady
from zigma_bench.metrics.features import Extractor
from zigma_bench.plugins.registry import Spec

LAYER = "features"  # the only output of a plugin's network


class PluginFeatures(FeatureExtractorBase):  # type: ignore[misc]
    """The network of a plugin as an extractor of torch-fidelity: uint8 [B, 3, H, W] -> features [B, d]."""

    def __init__(self, name: str, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name, [LAYER])
        self.network = network
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        found = self.network(pixels)
        if not isinstance(found, Tensor) or found.ndim != 2:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BrokenPlugin(f"the extractor {self.name!r} doesn't return features", expected="[B, d]", got=got)
        return (found.float(),)

    @staticmethod
    def get_provided_features_list() -> tuple[str]:
        return (LAYER,)

    @staticmethod
    def can_be_compiled() -> bool:
        return False


def open_extractor(spec: Spec, options: Any) -> Extractor:
    """An extractor with the weights that the options name; NotReady if they are missing or damaged."""
    for missing in spec.facts.missing(options):
        raise NotReady(missing.what, do=missing.do)
    found = spec.load()(options)
    return found if isinstance(found, Extractor) else _extractor_of_network(spec, options, found)


def _extractor_of_network(spec: Spec, options: Any, network: Any) -> Extractor:
    """Make an extractor from the network that a plugin returns. The plugin's version and its options identify the
    features."""
    if not callable(network):
        expected = "an nn.Module, or a function of uint8 [B, 3, H, W]"
        raise BrokenPlugin(
            f"the extractor {spec.name!r} of {spec.owner} is not a network", expected=expected, got=network
        )
    values = {option.name: getattr(options, option.name) for option in spec.options}
    golden = spec.facts.golden
    return Extractor(
        name=spec.name,
        layer=LAYER,
        dimensions=spec.facts.dimensions,
        weights_sha256=spec.facts.fingerprint(options),
        resize="the extractor's own",
        build=functools.partial(PluginFeatures, spec.name, network),
        golden=None if golden is None else functools.partial(golden, options),
        origin={"owner": spec.owner, "options": values},
    )
