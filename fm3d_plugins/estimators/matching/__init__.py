"""Features of photos, verified matches between them, and what their points look like."""
