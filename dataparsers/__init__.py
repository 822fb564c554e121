"""Estimators as nerfstudio dataparsers, and one that adds rendered views to another's photos."""
