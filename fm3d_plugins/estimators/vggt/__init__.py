"""VGGT as an estimator."""
