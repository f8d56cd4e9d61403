"""The fixtures of the tests of data sources, which those of texts need too."""

from data_fixtures import SHARED, cifar, pictures, quiet_hub

__all__ = ["SHARED", "cifar", "pictures", "quiet_hub"]
