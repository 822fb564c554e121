"""Structure from motion by pycolmap (COLMAP in process, CPU): features, matches, models.

The only package that touches pycolmap. What enters and leaves are arrays in this package's
conventions: pixels with the corner of the first pixel at (0, 0), OpenCV cameras, images named by
their row. COLMAP's own artefacts (a database file, folders of models) stay on disk where the
caller wants them.
"""
