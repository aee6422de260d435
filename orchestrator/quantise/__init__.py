"""The search for a network in integers."""
