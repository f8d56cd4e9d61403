"""Models and images that belong to no suite: imported models drawn from, anybody's images measured."""
