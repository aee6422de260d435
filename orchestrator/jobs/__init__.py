"""Runs handed to a cluster: the same command as a Ray job, watched and stopped from elsewhere."""
