"""The feature extractors: their networks, weights files and golden features."""
