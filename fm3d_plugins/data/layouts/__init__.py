"""Data sets of many scenes as they lie on disk, one reader per format."""
