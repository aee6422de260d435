"""The commands that are too large for `cli.py`, and the options that all of them share."""
