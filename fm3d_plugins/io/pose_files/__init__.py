"""Cameras of photos as other programs export them, one reader per format."""
