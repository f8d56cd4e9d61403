"""The fixtures of the tests of data sources, which the tests of texts also need."""

from data_fixtures import SHARED, cifar, pictures, quiet_hub

__all__ = ["SHARED", "cifar", "pictures", "quiet_hub"]
