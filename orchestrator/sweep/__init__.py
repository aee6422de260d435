"""Pruner sweeps and sensitivity analyses."""
