"""VGGT: cameras, depth, points and tracks of many photos in one forward pass."""
