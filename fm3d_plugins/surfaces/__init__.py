"""Surfaces of a trained scene: its views rendered with depth, then fused."""
