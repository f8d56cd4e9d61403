"""Sample from cells, trained networks and imported models, and measure the quality of any set of images."""
