"""Estimated cameras made exact by matches between the photos, and judged by them."""
