"""The stages of a cell: each brings one record up to date."""
