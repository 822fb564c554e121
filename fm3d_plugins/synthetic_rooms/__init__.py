"""The ray tracer of furnished rooms behind `fm3d sample`: exact cameras, depth and points."""
