"""New views that a network makes from photos, without a 3D representation."""
