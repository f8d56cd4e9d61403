"""The stages of a cell. Each stage writes one record."""
