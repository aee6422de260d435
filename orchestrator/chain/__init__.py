"""A chain: shrink, prune, quantise, each step from the network that the one before left."""
