"""Labelled videos: what there is, which clips are cut from it, and their pixels."""
