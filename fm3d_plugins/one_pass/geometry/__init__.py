"""Depth maps and cameras found in one pass, shown as gaussians."""
