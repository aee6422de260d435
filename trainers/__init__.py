"""Backbones, data, the one training loop, evaluation. Nothing here knows Ray."""
