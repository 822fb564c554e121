"""Cameras that are optimised together with a scene, and how held-out cameras follow them."""
