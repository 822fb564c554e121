"""Long captures in overlapping chunks: planned by similarity, joined by what they share."""
