"""Cameras, poses, rays, pointmaps, alignment and pose metrics: torch only, any batch shape."""
