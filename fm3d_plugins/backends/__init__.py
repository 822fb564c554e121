"""One seam per foreign library, each imported on first call."""
