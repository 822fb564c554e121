"""What the unknowns of a bundle adjustment are."""

POSE, LENS = 6, 2
"""Unknowns of a view: its turn (camera axes, radians), then the shift of its centre (world); and
of a camera: the logarithm of its focal lengths' factor, then k1."""

BEHIND = 1000.0
"""Error of a point that does not lie before the camera, pixels on both axes, whatever it is."""
