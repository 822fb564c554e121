"""Cameras, poses, rays, pointmaps, alignment and pose metrics, of any batch shape."""
