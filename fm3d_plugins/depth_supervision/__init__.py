"""Depth maps of the training photos, aligned to the scene and held against its depth."""
