"""Command line, searches, Ray, the trial store, reports and hand-off."""
